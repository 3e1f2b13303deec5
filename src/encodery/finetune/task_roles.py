"""Which columns of a table a task reads.

Of the task's schemas the first is used whose roles are set by the user or found by name, then by content.
"""

from __future__ import annotations

from collections.abc import Mapping

from encodery.base.errors import InputError, nearest
from encodery.base.parts import name_of
from encodery.finetune.task_types import RowSchema
from encodery.finetune.tasks import Task
from encodery.rows.columns import NAMES, Roles, match_roles
from encodery.rows.table import Table


def assign_task_roles(task: Task, table: Table, columns: Mapping[str, str], with_targets: bool) -> Roles:
    """Return the columns of the roles of one of a task's schemas, and the reason for each.

    `columns`: role → column, as the user set it. Raises `InputError` naming a column or role that does not exist, with
    the nearest, or the roles for which no column was found.
    """
    known = {role for schema in task.schemas for role in (*schema.inputs, *schema.targets)}
    for role in columns:
        if role not in known:
            raise InputError(
                f"columns.{role}: task '{name_of(task)}' has no such role.{nearest(role, known)} "
                f"Its roles: {', '.join(sorted(known))}."
            )
    schemas = [schema for schema in task.schemas if set(columns) <= {*schema.inputs, *schema.targets}]
    # By content, a column may look like a second text that it is not: schemas with few inputs are tried first there.
    by_content = [(schema, True) for schema in sorted(schemas, key=lambda schema: len(schema.inputs))]
    fewest_missing: tuple[str, ...] | None = None
    for schema, content in [*((schema, False) for schema in schemas), *by_content]:
        required = (*schema.inputs, *(schema.targets if with_targets else ()))
        own_columns = {role: column for role, column in columns.items() if role in required}
        roles = match_roles(table, required, own_columns, (), _column_names(schema), content)
        missing = tuple(role for role in required if role not in roles.columns)
        if not missing:
            return roles
        if not content and (fewest_missing is None or len(missing) < len(fewest_missing)):
            fewest_missing = missing
    if fewest_missing is None:
        raise InputError(f"columns: task '{name_of(task)}' does not read {', '.join(columns)} together.")
    raise InputError(
        f"{table.name}: task '{name_of(task)}': no column matches {', '.join(fewest_missing)}; the columns are "
        f"{', '.join(table.names)}. Set it with columns.{fewest_missing[0]}=COLUMN."
    )


def _column_names(schema: RowSchema) -> Mapping[str, tuple[str, ...]]:
    """Return the names of columns by role; the first text of a pair has other names than a single text."""
    return {**NAMES, "text": NAMES["text_a"]} if "text_b" in schema.inputs else NAMES
