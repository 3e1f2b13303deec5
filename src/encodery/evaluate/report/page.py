"""The skeleton of an HTML page: one file with the style sheet inside, without scripts or requests to the network."""

from __future__ import annotations

import importlib.resources

from encodery.base.markup import Html, el

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, *body: Html, heading: str | None = None) -> str:
    """Return a complete HTML page.

    Args:
        title: the title of the document.
        body: the elements below the heading.
        heading: the heading of the page; by default the title.
    """
    style = Html(importlib.resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", style),
    )
    return f"<!doctype html>\n{el('html', head, el('body', el('h1', heading or title), *body), lang='en')}\n"
