"""Types that tasks are written with: rows by role, their schema, metadata of the training rows, answers.

Shapes: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from encodery.base.errors import InputError
from encodery.base.settings import decode, encode

Rows = Mapping[str, Sequence[Any]]
"""Role → the value of each row (R)."""
Answer = dict[str, Any]
"""The answer for a row, as JSON: `prediction`, and further keys that depend on the task."""
AnswerItem = tuple[Any, ...]
"""A member of an answer that is a set: (label,) or (start, stop, label), in words or characters. The label is last."""


@dataclass(frozen=True)
class RowSchema:
    """Roles of the columns that a task reads (`inputs`) and learns to predict (`targets`).

    `group_by`: rows with equal values in these inputs stay together when rows are held out (empty: in all inputs).
    """

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskMetadata:
    """What the training rows determine beside the weights. It is stored with the model; a task sets what it needs.

    `labels` (C,) and `counts` (C,) of the training rows; `token_matching`: whether the head compares the tokens of two
    texts; `tag_kind`: whether tags mark spans (B-, I-) or are plain; `patterns` of a cloze prompt and
    `verbalizer_ids`, the token ids of each label under each pattern; `mean` and `std` of the training scores; `low` and
    `high`, their range; `unanswered`: number of questions without an answer; `types` of spans.
    """

    labels: tuple[str, ...] = ()
    counts: tuple[float, ...] = ()
    token_matching: bool = False
    tag_kind: Literal["spans", "plain"] = "spans"
    patterns: tuple[str, ...] = ()
    verbalizer_ids: tuple[tuple[tuple[int, ...], ...], ...] = ()
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 1.0
    unanswered: int = 0
    types: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        table = encode(self)
        return {field.name: table[field.name] for field in fields(self) if getattr(self, field.name) != field.default}

    @classmethod
    def from_json(cls, table: Mapping[str, Any], where: str) -> TaskMetadata:
        """The inverse of `to_json`. Raises `SettingsError` naming `where` and the field that is wrong."""
        return decode(cls, table, where)


def first_schema(task: str, schemas: Sequence[RowSchema], roles: Sequence[str], with_targets: bool) -> RowSchema:
    """Return the first schema that the roles satisfy. Raises `InputError` naming the task and the missing roles."""
    required = [(*schema.inputs, *(schema.targets if with_targets else ())) for schema in schemas]
    for schema, own in zip(schemas, required, strict=True):
        if {*own} <= {*roles}:
            return schema
    needs = " or ".join(" + ".join(own) for own in required)
    raise InputError(f"task '{task}' needs {needs}; the data has {', '.join(roles) or 'none of them'}.")
