"""Which columns a task reads of a table: of its forms the first whose roles are told or found by name, then by content.

Shapes: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from encodery.base.errors import InputError, nearest
from encodery.base.parts import name_of
from encodery.finetune.tasks import RowSchema, Task
from encodery.rows.columns import NAMES, Roles, match_roles
from encodery.rows.table import Table


def assign_task_roles(task: Task, table: Table, columns: Mapping[str, str], with_targets: bool) -> Roles:
    """The columns of the roles of one of a task's forms, and why each.

    Raises `InputError` naming a column or role that is none, with the nearest, or what no column was found for.
    """
    roles = {role for form in task.schemas for role in (*form.inputs, *form.targets)}
    for role in columns:
        if role not in roles:
            raise InputError(
                f"columns.{role}: task '{name_of(task)}' has no such role.{nearest(role, roles)} "
                f"Known: {', '.join(sorted(roles))}."
            )
    forms = [form for form in task.schemas if set(columns) <= {*form.inputs, *form.targets}]
    # What a column holds may be taken for a second text that is none: forms that read little go first there.
    tried = [(form, False) for form in forms] + [(form, True) for form in sorted(forms, key=lambda f: len(f.inputs))]
    best: tuple[str, ...] | None = None
    for form, fitting in tried:
        wanted = (*form.inputs, *(form.targets if with_targets else ()))
        told = {role: column for role, column in columns.items() if role in wanted}
        found = match_roles(table, wanted, told, (), _names(form), fitting)
        lacking = tuple(role for role in wanted if role not in found.columns)
        if not lacking:
            return found
        if not fitting and (best is None or len(lacking) < len(best)):
            best = lacking
    if best is None:
        raise InputError(f"columns: task '{name_of(task)}' does not read {', '.join(columns)} together.")
    raise InputError(
        f"{table.name}: task '{name_of(task)}': no column was found for {', '.join(best)} among "
        f"{', '.join(table.names)}. Say which it is: columns.{best[0]}=COLUMN."
    )


def _names(form: RowSchema) -> Mapping[str, tuple[str, ...]]:
    """Names of columns by role; the first text of a pair is called otherwise than a text alone."""
    return {**NAMES, "text": NAMES["text_a"]} if "text_b" in form.inputs else NAMES
