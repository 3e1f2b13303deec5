"""Assign columns to roles: as set by the user, by name, or because only one column has the content that a role needs.

The reason of each assignment is reported. The roles are those of `NAMES`; a caller may pass its own names. A role set
to "none" has no column.
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
HEAD_ROWS = 100  # Rows that are examined.
NONE = "none"


@dataclass(frozen=True)
class Roles:
    """`columns`: role -> column; `reasons`: role -> why, also for roles that the user set to have no column."""

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
    """Return the columns of the required roles, and of the optional roles that match by name.

    No column is assigned to two roles.

    Args:
        columns: role -> column, as set by the user.
        names: role -> the column names that match it, best first.

    Raises `InputError` for an unknown role or column, with the nearest name, and for required roles without a column.
    """
    roles = match_roles(table, required, columns, optional, names)
    unassigned = [role for role in required if role not in roles.columns]
    if unassigned:
        raise InputError(
            f"{table.name}: no column matches {', '.join(unassigned)}; the columns are {', '.join(table.names)}. "
            f"Set it with columns.{unassigned[0]}=COLUMN."
        )
    return roles


def match_roles(
    table: Table,
    required: Sequence[str],
    columns: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] = NAMES,
    by_content: bool = True,
) -> Roles:
    """Return the columns of those roles for which one can be assigned; see `assign_roles`.

    Args:
        by_content: whether a role without a matching name is assigned the only column that has the content it needs.

    Raises `InputError` for an unknown role or column, with the nearest name.
    """
    chosen = _checked(table, columns or {}, (*required, *optional))
    lower = {name.lower(): name for name in reversed(table.names)}
    assigned = {role: column for role, column in chosen.items() if column in table}
    reasons = dict.fromkeys(chosen, "set")
    for role in (*required, *optional):
        free = [lower[n] for n in names.get(role, (role,)) if n in lower and lower[n] not in assigned.values()]
        if role not in chosen and free:
            assigned[role], reasons[role] = free[0], "by name"
    for role in required if by_content else ():
        left = [name for name in table.names if name not in assigned.values() and _fits(role, table, name)]
        if role not in (*chosen, *assigned) and len(left) == 1:
            assigned[role], reasons[role] = left[0], "only matching column"
    order = [role for role in (*required, *optional) if role in assigned]
    return Roles({role: assigned[role] for role in order}, reasons)


def numbered_columns(table: Table, role: str, names: Mapping[str, Sequence[str]] = NAMES) -> list[str]:
    """Return the columns named like a role with a number: negative_1, negative2."""
    stems = {name: name.lower().rstrip("0123456789").rstrip("_") for name in table.names}
    return [name for name, stem in stems.items() if stem != name.lower() and stem in names.get(role, (role,))]


def _checked(table: Table, columns: Mapping[str, str], roles: Sequence[str]) -> dict[str, str]:
    for role, column in columns.items():
        if role not in roles:
            raise InputError(f"columns.{role}: there is no such role.{nearest(role, roles)} Roles: {', '.join(roles)}.")
        if column not in table and column != NONE:
            raise InputError(
                f"columns.{role} = {column}: {table.name} has no such column.{nearest(column, table.names)} "
                f"Columns: {', '.join(table.names)}."
            )
    return dict(columns)


def _fits(role: str, table: Table, name: str) -> bool:
    """Return whether the first cells of a column have the content that a role needs."""
    cells = [cell for cell in itertools.islice(table[name], HEAD_ROWS) if cell is not None and cell != ""]
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
