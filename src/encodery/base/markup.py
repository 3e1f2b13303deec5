"""Build HTML: text is untrusted and is escaped unless it is `Html`, which only the functions of this module return."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

VOID = frozenset({"meta", "link", "input", "br", "hr", "line", "path", "polyline", "circle", "rect"})


class Html(str):
    """Text that is already markup."""


def text(value: object) -> Html:
    """Return a value as escaped text, `Html` unchanged. Control characters that HTML forbids are removed."""
    if isinstance(value, Html):
        return value
    kept = "".join(c for c in str(value) if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0))
    return Html(html.escape(kept.encode("utf-8", "replace").decode("utf-8"), quote=True))


def join(pieces: Iterable[object], between: str = "") -> Html:
    """Concatenate pieces, each escaped unless it is `Html`."""
    return Html(text(between).join(text(piece) for piece in pieces))


def el(name: str, /, *children: object, **attributes: Any) -> Html:
    """Return an element. Attribute names are written with `_` for `-`, `class_` for class; None omits an attribute."""
    pairs = [
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    head = f"<{name}{''.join(pairs)}"
    return Html(f"{head}/>" if name in VOID and not children else f"{head}>{join(children)}</{name}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], numeric: Sequence[int] = ()) -> Html:
    """Return a table that scrolls sideways on a narrow page.

    Args:
        head: the column titles; empty for none.
        rows: the cells of each row.
        numeric: the numbers of the columns that are aligned right.
    """

    def cells(kind: str, row: Sequence[object]) -> Html:
        return el("tr", *(el(kind, cell, class_="n" if i in numeric else None) for i, cell in enumerate(row)))

    top = el("thead", cells("th", head)) if head else Html("")
    body = el("tbody", *(cells("td", row) for row in rows))
    return el("div", el("table", top, body), class_="scroll")


def pairs(rows: Iterable[tuple[object, object]]) -> Html:
    """Return a list of names and values, one pair per line."""
    return el("dl", *(join((el("dt", name), el("dd", value))) for name, value in rows))


def details(summary: str, *children: object) -> Html:
    """Return a section that is collapsed on the screen and expanded in print."""
    return el("details", el("summary", summary), *children)
