"""The search that the page's form asks for: the parameters of an address, checked, as arguments of `Searcher.search`.

An empty field counts as not given. The limits are those of a page for people; the library has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from encodery.base.errors import InputError, nearest
from encodery.search.filters import Condition, parse
from encodery.search.fuse import parse_weights
from encodery.search.modes import MAX_QUERY_CHARS

NAMES = ("q", "mode", "top_k", "weight", "weights", "fusion", "per_document", "rerank", "rerank_weight", "filter")
MAX_TOP_K = 100
"""Passages shown at most."""
MAX_FILTERS = 10
TOP_K = 10

Form = Mapping[str, Sequence[str]]
"""Name -> the values that were filled in, none of them empty."""


@dataclass(frozen=True, kw_only=True)
class PageQuery:
    """The arguments of `Searcher.search`. `rerank`: whether to use the page's reranker, if it has one; `rerank_weight`:
    its weight, None for the default."""

    query: str
    top_k: int
    mode: str | None
    weight: float | Mapping[str, float] | None
    fusion: str
    per_document: int | None
    conditions: tuple[Condition, ...]
    rerank: bool
    rerank_weight: float | None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments as keywords, without the reranker."""
        return {
            "query": self.query,
            "top_k": self.top_k,
            "mode": self.mode,
            "conditions": self.conditions,
            "per_document": self.per_document,
            "weight": self.weight,
            "fusion": self.fusion,
        }


def parse_form(query: str, names: Sequence[str] = NAMES) -> dict[str, list[str]]:
    """Return the fields of an address's query string.

    Raises `InputError` for a field that is unknown or given twice (filters may be), and for text that is not UTF-8."""
    try:
        values = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise InputError(f"The address cannot be read: {error}.") from error
    fields: dict[str, list[str]] = {}
    for name, value in values:
        if name not in names:
            raise InputError(f"'{name}' is no field.{nearest(name, names)} Fields: {', '.join(names)}.")
        if name in fields and name != "filter":
            raise InputError(f"{name}: is given twice.")
        if value.strip():
            fields.setdefault(name, []).append(value)
    return fields


def parse_query(fields: Form) -> PageQuery:
    """Return the search that the fields ask for. Raises `InputError` that names the field that is not allowed."""
    filters = fields.get("filter", ())
    for name, value in (("q", first_value(fields, "q")), *(("filter", text) for text in filters)):
        if len(value) > MAX_QUERY_CHARS:
            raise InputError(f"{name}: has {len(value):,} characters; at most {MAX_QUERY_CHARS:,} are allowed.")
    if len(filters) > MAX_FILTERS:
        raise InputError(f"filter: {len(filters)} are given; at most {MAX_FILTERS} are allowed.")
    rerank = first_value(fields, "rerank") or "yes"
    if rerank not in ("yes", "no"):
        raise InputError(f"rerank = '{rerank}': must be yes or no.")
    top_k = whole_number(fields, "top_k")
    if top_k is not None and top_k > MAX_TOP_K:
        raise InputError(f"top_k = {top_k}: at most {MAX_TOP_K} passages are shown.")
    return PageQuery(
        query=first_value(fields, "q"),
        top_k=TOP_K if top_k is None else top_k,
        mode=first_value(fields, "mode") or None,
        weight=_weight(fields),
        fusion=first_value(fields, "fusion") or "scores",
        per_document=whole_number(fields, "per_document"),
        conditions=parse(filters),
        rerank=rerank == "yes",
        rerank_weight=_share(fields, "rerank_weight", "0 (as found) and 1 (the reranker's order alone)"),
    )


def first_value(fields: Form, name: str) -> str:
    """Return the first value of a field, empty if it is not given."""
    return next(iter(fields.get(name, ())), "")


def whole_number(fields: Form, name: str, minimum: int = 1) -> int | None:
    """Return a whole number, None if the field is not given. Raises `InputError`."""
    value = first_value(fields, name).strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= minimum):
        raise InputError(f"{name} = '{value[:40]}': is a whole number, at least {minimum}.")
    return int(value)


def _weight(fields: Form) -> float | Mapping[str, float] | None:
    """The weight of all models in `weight`, or weights by mode in `weights`, such as bm25=0.3,dense=0.7."""
    shares = first_value(fields, "weights").strip()
    if shares and "weight" in fields:
        raise InputError("weight, weights: give the weight of all models together, or the weights by mode.")
    return parse_weights(shares) if shares else _share(fields, "weight", "0 (words) and 1 (vectors)")


def _share(fields: Form, name: str, ends: str) -> float | None:
    value = first_value(fields, name).strip()
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise InputError(f"{name} = '{value[:40]}': is a share between {ends}.")
    return number
