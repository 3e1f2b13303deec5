"""Which column plays which role: told, or guessed by its name, or the only one that holds what the role needs.

What was guessed is said, with the reason. Roles are those of `NAMES`; a caller may bring names of its own. A role whose
column is told to be "none" has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encodery.base.errors import InputError, nearest
from encodery.rows.table import Table

NAMES: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("text", "sentence", "review", "content", "body", "message", "document", "utterance", "tweet", "passage"),
        "title",
    ),
    "text_a": ("text_a", "text1", "text_1", "sentence1", "sentence_1", "premise", "a", "first", "text", "sentence"),
    "text_b": ("text_b", "text2", "text_2", "sentence2", "sentence_2", "hypothesis", "b", "second"),
    "label": ("label", "class", "category", "intent", "sentiment", "target", "topic", "gold", "answer", "y"),
    "labels": ("labels", "tags", "categories", "topics", "classes", "label"),
    "score": ("score", "similarity", "similarity_score", "rating", "stars", "relevance", "grade", "target", "label"),
    "tokens": ("tokens", "words", "token"),
    "tags": ("tags", "ner_tags", "bio", "ner", "pos_tags", "pos", "labels", "tag"),
    "spans": ("spans", "entities", "annotations"),
    "question": ("question", "query", "stem"),
    "context": ("context", "passage", "paragraph", "article", "document"),
    "answers": ("answers", "answer"),
    "choices": ("choices", "options", "endings", "candidates", "answers"),
    "query": ("query", "anchor", "question", "search"),
    "positive": ("positive", "pos", "document", "passage", "answer", "response"),
    "negative": ("negative", "negatives", "neg", "hard_negative", "hard_negatives"),
    "good": ("good", "sentence_good", "acceptable"),
    "bad": ("bad", "sentence_bad", "unacceptable"),
}
TEXTS = ("text", "text_a", "text_b", "question", "context", "query", "anchor", "positive")
NUMBERS = ("score",)
LISTS = ("tokens", "tags", "labels", "choices", "spans")
HEAD = 100  # Rows that are looked at.
NONE = "none"


@dataclass(frozen=True)
class Roles:
    """`columns`: role -> column; `why`: role -> the reason, also of those told to have no column."""

    columns: Mapping[str, str]
    reasons: Mapping[str, str]

    def __str__(self) -> str:
        return ", ".join(f"{role} = {column} ({self.reasons[role]})" for role, column in self.columns.items())


def assign_roles(
    table: Table,
    required: Sequence[str],
    columns: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] = NAMES,
) -> Roles:
    """The columns of the roles `wanted`, and of those `optional` that are found by name; none is taken twice.

    Raises `InputError` for a role or column told that is none, with the nearest, and for roles without a column.
    """
    found = match_roles(table, required, columns, optional, names)
    lacking = [role for role in required if role not in found.columns]
    if lacking:
        raise InputError(
            f"{table.name}: no column was found for {', '.join(lacking)} among {', '.join(table.names)}. "
            f"Say which it is: columns.{lacking[0]}=COLUMN."
        )
    return found


def match_roles(
    table: Table,
    required: Sequence[str],
    columns: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] = NAMES,
    by_content: bool = True,
) -> Roles:
    """The same as far as columns are found; without `fitting`, by what is told and by their names alone.

    Raises `InputError` for a role or column told that is none, with the nearest.
    """
    told = _checked(table, columns or {}, (*required, *optional))
    lower = {name.lower(): name for name in reversed(table.names)}
    found = {role: column for role, column in told.items() if column in table}
    why = dict.fromkeys(told, "set")
    for role in (*required, *optional):
        free = [lower[n] for n in names.get(role, (role,)) if n in lower and lower[n] not in found.values()]
        if role not in told and free:
            found[role], why[role] = free[0], "by name"
    for role in required if by_content else ():
        left = [name for name in table.names if name not in found.values() and _fits(role, table, name)]
        if role not in (*told, *found) and len(left) == 1:
            found[role], why[role] = left[0], "only matching column"
    order = [role for role in (*required, *optional) if role in found]
    return Roles({role: found[role] for role in order}, why)


def numbered_columns(table: Table, role: str, names: Mapping[str, Sequence[str]] = NAMES) -> list[str]:
    """The columns called as a role and a number: negative_1, negative2."""
    stems = {name: name.lower().rstrip("0123456789").rstrip("_") for name in table.names}
    return [name for name, stem in stems.items() if stem != name.lower() and stem in names.get(role, (role,))]


def _checked(table: Table, given: Mapping[str, str], roles: Sequence[str]) -> dict[str, str]:
    for role, column in given.items():
        if role not in roles:
            raise InputError(f"columns.{role}: is no role here.{nearest(role, roles)} Known: {', '.join(roles)}.")
        if column not in table and column != NONE:
            raise InputError(
                f"columns.{role} = {column}: {table.name} has no such column.{nearest(column, table.names)} "
                f"It has {', '.join(table.names)}."
            )
    return dict(given)


def _fits(role: str, table: Table, name: str) -> bool:
    """Whether the first cells hold what the role needs."""
    cells = [cell for cell in itertools.islice(table[name], HEAD) if cell is not None and cell != ""]
    if not cells:
        return False
    if role in NUMBERS:
        return all(_is_number(cell) for cell in cells)
    if role in LISTS:
        return all(isinstance(cell, list) for cell in cells)
    if role in TEXTS:
        return all(isinstance(cell, str) for cell in cells) and not all(_is_number(cell) for cell in cells)
    return False


def _is_number(cell: Any) -> bool:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True
