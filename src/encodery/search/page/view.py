"""The page itself: the form, the passages found with the score of each stage as a bar, the time that each stage took.

Everything is markup by construction (`base/markup.py`), and whole without script; `page.js` adds keys. Bars are
drawings because the page's policy allows no style but the one file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import urlencode

from encodery.base.markup import Html, details, el, join, pairs
from encodery.search.excerpt import Span, excerpt
from encodery.search.fuse import FusionMethod
from encodery.search.modes import BM25
from encodery.search.page.form import MAX_QUERY_CHARS, MAX_TOP_K, NAMES, TOP_K, Form, first_value
from encodery.search.results import SearchHit, SearchResult

WIDTH = 700
"""Characters of a passage shown among others; its document shows it whole."""
SIDES = tuple(field.name for field in dataclasses.fields(SearchHit) if field.type == "float | None")
"""The scores that a passage has of single stages."""
EXPLAINED = {
    "score": "what ranks: the stages mixed",
    "bm25": "BM25: words of the query in the passage, rare ones more",
    "dense": "inner product of the query's and the passage's vectors",
    "sparse": "inner product of learned weights of words",
    "multi_vector": "each token of the query with the best one of the passage",
    "rerank": "the reranker's, which reads query and passage together",
}


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What the page says of its index; `modes` begins with the one taken unasked; `weights`: side -> its share in
    hybrid ranking; `reranker` is its name, if any, and `rerank_weight` its share."""

    name: str
    documents: int
    passages: int
    modes: tuple[str, ...]
    weights: Mapping[str, float]
    reranker: str | None
    rerank_weight: float


def frame(title: str, *body: Html) -> str:
    """A whole page."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("link", rel="icon", href="data:,"),
        el("link", rel="stylesheet", href="/page.css"),
        el("script", src="/page.js", defer=""),
    )
    return f"<!doctype html>\n{el('html', head, el('body', *body), lang='en')}\n"


def search_page(facts: IndexFacts, fields: Form, answer: SearchResult | None, problem: str | None = None) -> str:
    """The form as it was filled in and, below it, what was found or what is wrong."""
    query = first_value(fields, "q")
    title = f"{query[:60]} · {facts.name}" if query else f"Search {facts.name}"
    below = [el("p", problem, class_="problem", role="alert")] if problem else []
    if answer is not None:
        below.append(_results(facts, fields, answer))
    return frame(title, _head(facts), el("main", _form(facts, fields), *below), _foot())


def problem_page(title: str, message: str) -> str:
    """A page that says only what is wrong."""
    back = el("p", el("a", "to the search", href="/"))
    return frame(title, el("main", el("h1", title), el("p", message, class_="problem", role="alert"), back))


def marked(text: str, spans: Iterable[Span]) -> Html:
    """The text with these stretches marked; spans are in order, those that overlap an earlier one are passed over."""
    pieces: list[object] = []
    at = 0
    for begin, end in spans:
        if at <= begin < end <= len(text):
            pieces += [text[at:begin], el("mark", text[begin:end])]
            at = end
    return join([*pieces, text[at:]])


def metadata(table: dict[str, Any]) -> Html:
    """What is known of a document."""
    return pairs(
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in table.items()
    )


def address(path: str, fields: Form, **over: object) -> str:
    """A path with these fields, some of them replaced; None leaves one out."""
    kept: dict[str, Sequence[str]] = {name: values for name, values in fields.items() if name not in over}
    kept |= {name: [str(value)] for name, value in over.items() if value is not None}
    return f"{path}?{urlencode(kept, doseq=True)}"


def _head(facts: IndexFacts) -> Html:
    held = f"{facts.passages:,} passages of {facts.documents:,} documents"
    if facts.reranker is not None:
        held += f" · reranker {facts.reranker}"
    return el("header", el("h1", el("a", facts.name, href="/")), el("p", held, class_="faint"))


def _foot() -> Html:
    keys = (("/", "to the query"), ("↓ ↑ or j k", "to the next and last passage"), ("Enter", "opens it"))
    shown = join((join((el("kbd", key), f" {what}")) for key, what in keys), between=" · ")
    return el("footer", el("p", shown, class_="faint keys"))


def _form(facts: IndexFacts, fields: Form) -> Html:
    query = el(
        "input",
        type="search",
        name="q",
        id="q",
        value=first_value(fields, "q"),
        maxlength=MAX_QUERY_CHARS,
        placeholder="What to look for",
        aria_label="Query",
        autocomplete="off",
        autofocus=None if "q" in fields else "",
        dir="auto",
    )
    ask = el("div", query, el("button", "Search"), class_="ask")
    set_ = any(name in fields for name in NAMES if name != "q")
    options = el(
        "details", el("summary", "Options"), _options(facts, fields), open="" if set_ else None, class_="options"
    )
    return el("form", ask, options, action="/", method="get", role="search", id="form")


def _options(facts: IndexFacts, fields: Form) -> Html:
    first, *others = facts.modes
    found = [_select(fields, "mode", "Find by", [("", first), *((mode, mode) for mode in others)], first)]
    if others:
        found.append(_shares(facts, fields))
        fusions = [("" if name == "scores" else name, name) for name in get_args(FusionMethod)]
        found.append(_select(fields, "fusion", "Mix", fusions, "scores"))
    found.append(_input(fields, "top_k", "Passages", min=1, max=MAX_TOP_K, placeholder=str(TOP_K)))
    found.append(_input(fields, "per_document", "Per document", min=1, placeholder="any"))
    if facts.reranker is not None:
        found.append(_select(fields, "rerank", "Rerank", [("", "yes"), ("no", "no")], "yes"))
        usual = f"{facts.rerank_weight:.2f}"
        found.append(
            _input(fields, "rerank_weight", "Share of the reranker", step="any", min=0, max=1, placeholder=usual)
        )
    filters = [*fields.get("filter", ()), ""]
    hint = "source=manual,mail or year>=2000 or path~docs"
    boxes = [
        el("input", name="filter", value=text, maxlength=MAX_QUERY_CHARS, placeholder=hint, aria_label="Filter")
        for text in filters
    ]
    found.append(el("div", el("span", "Only where", class_="label"), *boxes, class_="field wide"))
    return el("div", *found, class_="fields")


def _shares(facts: IndexFacts, fields: Form) -> Html:
    """One number where words stand beside one model, else a share for each side."""
    if len(facts.weights) == 2 and "weights" not in fields:
        (share,) = [share for side, share in facts.weights.items() if side != BM25]
        return _input(fields, "weight", "Share of the vectors", step="any", min=0, max=1, placeholder=f"{share:.2f}")
    usual = ",".join(f"{side}={share:.2f}" for side, share in facts.weights.items())
    return _input(fields, "weights", "Shares of the sides", type="text", maxlength=MAX_QUERY_CHARS, placeholder=usual)


def _select(fields: Form, name: str, label: str, options: Sequence[tuple[str, str]], usual: str) -> Html:
    """`usual`: the value that is taken where none is given, which may also be given by name."""
    held = first_value(fields, name)
    held = "" if held == usual else held
    made = [el("option", said, value=value, selected="" if value == held else None) for value, said in options]
    chosen = el("select", *made, name=name, id=name)
    return el("div", el("label", label, for_=name), chosen, class_="field")


def _input(fields: Form, name: str, label: str, **attributes: Any) -> Html:
    told = {"type": "number", **attributes}
    box = el("input", name=name, id=name, value=first_value(fields, name), **told)
    return el("div", el("label", label, for_=name), box, class_="field")


def _results(facts: IndexFacts, fields: Form, answer: SearchResult) -> Html:
    total = sum(answer.seconds.values())
    count = len(answer.hits)
    said = "Nothing found" if not count else f"{count} passage{'s' if count > 1 else ''}"
    summary = el("p", f"{said} · {answer.mode} · {1000 * total:.1f} ms", class_="faint", role="status")
    if not count:
        advice = "Try other words, another way to find, or fewer filters."
        return el("section", summary, _timing(answer.seconds), el("p", advice), aria_label="Results")
    sides = _sides(answer.hits)
    ranges = {side: _range(answer.hits, side) for side in sides}
    hits = [_hit(fields, found, ranges) for found in answer.hits]
    more = []
    if count >= (int(first_value(fields, "top_k") or TOP_K)) and count < MAX_TOP_K:
        more = [
            el("p", el("a", "more passages", href=address("/", fields, top_k=min(2 * count, MAX_TOP_K)), rel="next"))
        ]
    return el("section", summary, _timing(answer.seconds), el("ol", *hits, class_="hits"), *more, aria_label="Results")


def _timing(seconds: dict[str, float]) -> Html:
    """One bar of all stages, and what each took."""
    total = sum(seconds.values()) or 1.0
    at, drawn = 0.0, []
    for stage, value in seconds.items():
        wide = 100 * value / total
        drawn.append(el("rect", x=f"{at:.2f}", y=0, width=f"{wide:.2f}", height=4, class_=f"s-{stage}"))
        at += wide
    bar = el("svg", *drawn, viewBox="0 0 100 4", preserveAspectRatio="none", class_="times", aria_hidden="true")
    keys = [el("span", f"{stage} {1000 * value:.1f} ms", class_=f"key s-{stage}") for stage, value in seconds.items()]
    return el("div", bar, el("p", *keys, class_="small"), class_="timing")


def _sides(found: Sequence[SearchHit]) -> tuple[str, ...]:
    """The stages that scored, and what they were mixed to, where it is none of theirs."""
    sides = tuple(side for side in SIDES if any(getattr(hit, side) is not None for hit in found))
    alone = any(all(getattr(hit, side) == hit.score for hit in found) for side in sides)
    return sides if alone else ("score", *sides)


def _range(found: Sequence[SearchHit], side: str) -> tuple[float, float]:
    """What a bar of no length and a whole one stand for: 0, or the lowest score if below it, and the highest."""
    values = [value for hit in found if (value := getattr(hit, side)) is not None]
    return min(0.0, *values), max(values)


def _hit(fields: Form, found: SearchHit, ranges: dict[str, tuple[float, float]]) -> Html:
    spans = [(a - found.head, b - found.head) for a, b in found.matches if a >= found.head]
    shown, marks = excerpt(found.text[found.head :], spans, WIDTH)
    title = found.text[: found.head].strip() or str(found.metadata.get("title") or found.document)
    target = address("/document", fields, id=found.document, passage=found.number)
    where = str(found.metadata.get("path") or found.document)
    where = f"{where} · characters {found.start:,} to {found.end:,}"
    told = [details("about the document", metadata(found.metadata))] if found.metadata else []
    what = el(
        "div",
        el("h2", el("a", title, href=f"{target}#here", class_="open", dir="auto")),
        el("p", marked(shown, marks), class_="passage", dir="auto"),
        el("p", where, class_="faint small"),
        *told,
        class_="what",
    )
    bars = [_score(side, value, *ranges[side]) for side in ranges if (value := getattr(found, side)) is not None]
    return el("li", what, el("div", *bars, class_="scores"), class_="hit", value=found.rank)


def _score(side: str, value: float, low: float, high: float) -> Html:
    wide = 100.0 if high <= low else 100 * (value - low) / (high - low)
    drawn = (
        el("rect", x=0, y=0, width=100, height=4, class_="ground"),
        el("rect", x=0, y=0, width=f"{wide:.1f}", height=4),
    )
    bar = el("svg", *drawn, viewBox="0 0 100 4", preserveAspectRatio="none", class_=f"bar s-{side}", aria_hidden="true")
    name = el("span", side, title=EXPLAINED.get(side))
    return el("div", name, el("b", f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"), bar, class_="score")
