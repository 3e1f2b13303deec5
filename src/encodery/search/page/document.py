"""A document as the index holds it: the passage that was found, with those before and after it.

The index stores passages, not documents: what lies between two of them (a line break, a space) is not stored, so each
passage is shown as a paragraph. The text of overlapping passages is shown once."""

from __future__ import annotations

from collections.abc import Mapping

from encodery.base.markup import Html, details, el
from encodery.search.page.form import Form, first_value
from encodery.search.page.view import IndexFacts, address, frame, marked, metadata
from encodery.search.store import METADATA, Point, Store

AROUND = 12
"""Number of passages shown before and after."""


def passages(store: Store, document: str, number: int) -> dict[int, Point]:
    """Return number -> passage, from `AROUND` + 1 before to as many after; empty if there is no such passage."""
    numbers = range(max(0, number - AROUND - 1), number + AROUND + 2)
    names = {Point(document, place, "", None).id: place for place in numbers}
    points = store.fetch(list(names))
    by_number = {names[name]: point for name, point in points.items()}
    return by_number if number in by_number else {}


def document_page(facts: IndexFacts, fields: Form, number: int, points: Mapping[int, Point], store: Store) -> str:
    """Return the page with the passages around one of a document. `fields`: of the search that found it."""
    here = points[number]
    payload = here.payload
    title = str(payload.get("title") or here.document)
    search = {name: values for name, values in fields.items() if name not in ("id", "passage")}
    back = el("p", el("a", "back to what was found", href=address("/", search)), class_="small") if search else Html("")
    shown = [place for place in sorted(points) if abs(place - number) <= AROUND]
    query = first_value(fields, "q")
    body = [
        _piece(points, place, number, [] if not query.strip() else store.matches(query, points[place].text))
        for place in shown
    ]
    earlier = [_leap(fields, shown[0] - 1, "earlier passages")] if shown[0] - 1 in points else []
    later = [_leap(fields, shown[-1] + 1, "later passages")] if shown[-1] + 1 in points else []
    about = [details("about the document", metadata(payload[METADATA]))] if payload.get(METADATA) else []
    place = f"passage {number + 1} · characters {payload['start']:,} to {payload['end']:,}"
    return frame(
        f"{title} · {facts.name}",
        el("header", el("h1", el("a", facts.name, href="/")), back),
        el(
            "main",
            el("h2", title, dir="auto"),
            el("p", f"{here.document} · {place}", class_="faint small"),
            *about,
            *earlier,
            el("article", *body),
            *later,
        ),
    )


def _leap(fields: Form, number: int, label: str) -> Html:
    return el("p", el("a", label, href=f"{address('/document', fields, passage=number)}#here"))


def _piece(points: Mapping[int, Point], place: int, here: int, spans: list[tuple[int, int]]) -> Html:
    """A passage without its title, and without text that it shares with a neighbour closer to the passage that was
    found."""
    point = points[place]
    head, start, end = (point.payload[name] for name in ("head", "start", "end"))
    text = point.text[head:]
    first = 0
    if place > here and place - 1 in points:
        first = max(0, points[place - 1].payload["end"] - start)
    if place < here and place + 1 in points:
        text = text[: len(text) - max(0, end - points[place + 1].payload["start"])]
    moved = [(a - head - first, b - head - first) for a, b in spans if a >= head + first]
    attributes = {"id": "here", "class_": "piece here"} if place == here else {"class_": "piece"}
    return el("p", marked(text[first:], moved), dir="auto", **attributes)
