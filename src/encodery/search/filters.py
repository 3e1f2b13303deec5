"""Conditions on metadata, written as `source=debian`, `year>=2000`, `path~docs` and read the same everywhere.

    field=a      equals (a number also matches as text)     field=a,b    equals one of them
    field!=a     equals none of them                        field~text   contains the text
    field>=1     and >, <, <=                               Several conditions must all hold.

Fields are those of the documents' metadata, and `document` for the document's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from encodery.base.errors import InputError

Operator = Literal["=", "!=", "~", ">=", ">", "<=", "<"]
Value = str | int | float
WRITTEN = re.compile(r"\s*([^\s=!~<>][^=!~<>]*?)\s*(!=|>=|<=|=|~|>|<)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A condition on one field. `values` are alternatives for `=`, `!=` and `~`; the comparisons have one number."""

    field: str
    operator: Operator
    values: tuple[Value, ...]


def parse(written: Iterable[str]) -> tuple[Condition, ...]:
    """Return the conditions of texts in this grammar. Raises `InputError`, which shows the grammar."""
    return tuple(_condition(text) for text in written)


def _condition(text: str) -> Condition:
    match = WRITTEN.fullmatch(text)
    if match is None:
        raise InputError(f"'{text}' is no filter. Write field=value, field=a,b, field!=a, field~part or field>=number.")
    field, operator, rest = match[1], match[2], match[3].strip()
    if operator in (">=", ">", "<=", "<"):
        number = _number(rest)
        if number is None:
            raise InputError(f"'{text}': {operator} compares numbers, and '{rest}' is none.")
        return Condition(field, operator, (number,))  # type: ignore[arg-type]
    values = tuple(part.strip() for part in rest.split(",") if part.strip())
    if not values:
        raise InputError(f"'{text}': a value is missing after {operator}.")
    return Condition(field, operator, values)  # type: ignore[arg-type]


def alternatives(value: Value) -> tuple[Value, ...]:
    """Return the values that a text may mean: `2000` is the text and the number."""
    if not isinstance(value, str):
        return (value,)
    number = _number(value)
    return (value,) if number is None else (value, number)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if abs(number) < float("inf") else None
    return None
