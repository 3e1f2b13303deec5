"""A document as the index holds it: the passage that was found, and those before and after it, put together again.

The index keeps passages, not documents: what lies between two of them (a line's end, a space) is not known any more,
so each stands in a paragraph of its own. Where passages overlap, the text is shown once.
"""

from __future__ import annotations

from collections.abc import Mapping

from encodery.base.markup import Html, details, el
from encodery.search.page.form import Form, first_value
from encodery.search.page.view import IndexFacts, address, frame, marked, metadata
from encodery.search.store import METADATA, Point, Store

AROUND = 12
"""Passages shown before and after."""


def passages(store: Store, document: str, number: int) -> dict[int, Point]:
    """Number -> passage, from `AROUND` + 1 before to as many after; empty where there is no such passage."""
    wanted = range(max(0, number - AROUND - 1), number + AROUND + 2)
    names = {Point(document, place, "", None).id: place for place in wanted}
    held = store.fetch(list(names))
    found = {names[name]: point for name, point in held.items()}
    return found if number in found else {}


def document_page(facts: IndexFacts, fields: Form, number: int, found: Mapping[int, Point], store: Store) -> str:
    """The passages around one of a document. `fields` are those of the search it was found by."""
    here = found[number]
    payload = here.payload
    title = str(payload.get("title") or here.document)
    search = {name: values for name, values in fields.items() if name not in ("id", "passage")}
    back = el("p", el("a", "back to what was found", href=address("/", search)), class_="small") if search else Html("")
    shown = [place for place in sorted(found) if abs(place - number) <= AROUND]
    query = first_value(fields, "q")
    body = [
        _piece(found, place, number, [] if not query.strip() else store.matches(query, found[place].text))
        for place in shown
    ]
    earlier = [_leap(fields, shown[0] - 1, "earlier passages")] if shown[0] - 1 in found else []
    later = [_leap(fields, shown[-1] + 1, "later passages")] if shown[-1] + 1 in found else []
    told = [details("about the document", metadata(payload[METADATA]))] if payload.get(METADATA) else []
    place = f"passage {number + 1} · characters {payload['start']:,} to {payload['end']:,}"
    return frame(
        f"{title} · {facts.name}",
        el("header", el("h1", el("a", facts.name, href="/")), back),
        el(
            "main",
            el("h2", title, dir="auto"),
            el("p", f"{here.document} · {place}", class_="faint small"),
            *told,
            *earlier,
            el("article", *body),
            *later,
        ),
    )


def _leap(fields: Form, number: int, said: str) -> Html:
    return el("p", el("a", said, href=f"{address('/document', fields, passage=number)}#here"))


def _piece(found: Mapping[int, Point], place: int, here: int, spans: list[tuple[int, int]]) -> Html:
    """A passage without its head, and without what a neighbour nearer to the one that was found shows as well."""
    point = found[place]
    head, start, end = (point.payload[name] for name in ("head", "start", "end"))
    text = point.text[head:]
    first = 0
    if place > here and place - 1 in found:
        first = max(0, found[place - 1].payload["end"] - start)
    if place < here and place + 1 in found:
        text = text[: len(text) - max(0, end - found[place + 1].payload["start"])]
    moved = [(a - head - first, b - head - first) for a, b in spans if a >= head + first]
    attributes = {"id": "here", "class_": "piece here"} if place == here else {"class_": "piece"}
    return el("p", marked(text[first:], moved), dir="auto", **attributes)
