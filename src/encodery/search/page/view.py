"""The page itself: the form, the passages with the score of each stage as a bar, and the time that each stage took.

Everything is escaped by construction (`base/markup.py`) and complete without script; `page.js` adds keys. Bars are SVG
because the page's policy allows no style but that of the one file."""

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
from encodery.search.modes import BM25, MAX_QUERY_CHARS
from encodery.search.page.form import MAX_TOP_K, NAMES, TOP_K, Form, first_value
from encodery.search.results import SearchHit, SearchResult

WIDTH = 700
"""Characters of a passage that are shown among the results; the page of its document shows all of it."""
STAGES = tuple(field.name for field in dataclasses.fields(SearchHit) if field.type == "float | None")
"""The stages whose scores a hit has."""
EXPLAINED = {
    "score": "ranks the passages: the scores of the stages, mixed",
    "bm25": "BM25: terms of the query in the passage, rare ones count more",
    "dense": "inner product of the query's and the passage's vectors",
    "sparse": "inner product of learned sparse term weights",
    "multi_vector": "MaxSim: each token of the query with its best match in the passage",
    "rerank": "the score of the reranker",
}


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What the page shows of its index. `modes` begins with the default; `weights`: mode -> weight in hybrid ranking;
    `reranker`: its name, if any, and `rerank_weight` its weight."""

    name: str
    documents: int
    passages: int
    modes: tuple[str, ...]
    weights: Mapping[str, float]
    reranker: str | None
    rerank_weight: float


def frame(title: str, *body: Html) -> str:
    """Return a whole page."""
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
    """Return the form as it was filled in and, below it, the results or an error."""
    query = first_value(fields, "q")
    title = f"{query[:60]} · {facts.name}" if query else f"Search {facts.name}"
    below = [el("p", problem, class_="problem", role="alert")] if problem else []
    if answer is not None:
        below.append(_results(facts, fields, answer))
    return frame(title, _head(facts), el("main", _form(facts, fields), *below), _foot())


def problem_page(title: str, message: str) -> str:
    """Return a page that shows only an error."""
    back = el("p", el("a", "to the search", href="/"))
    return frame(title, el("main", el("h1", title), el("p", message, class_="problem", role="alert"), back))


def marked(text: str, spans: Iterable[Span]) -> Html:
    """Return the text with these spans marked. The spans must be in order; those that overlap an earlier one are
    skipped."""
    pieces: list[object] = []
    at = 0
    for begin, end in spans:
        if at <= begin < end <= len(text):
            pieces += [text[at:begin], el("mark", text[begin:end])]
            at = end
    return join([*pieces, text[at:]])


def metadata(table: dict[str, Any]) -> Html:
    """Return the metadata of a document."""
    return pairs(
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in table.items()
    )


def address(path: str, fields: Form, **over: object) -> str:
    """Return a path with these fields, some of them replaced; None removes one."""
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
    inputs = [_select(fields, "mode", "Find by", [("", first), *((mode, mode) for mode in others)], first)]
    if others:
        inputs.append(_weights(facts, fields))
        fusions = [("" if name == "scores" else name, name) for name in get_args(FusionMethod)]
        inputs.append(_select(fields, "fusion", "Mix", fusions, "scores"))
    inputs.append(_input(fields, "top_k", "Passages", min=1, max=MAX_TOP_K, placeholder=str(TOP_K)))
    inputs.append(_input(fields, "per_document", "Per document", min=1, placeholder="any"))
    if facts.reranker is not None:
        inputs.append(_select(fields, "rerank", "Rerank", [("", "yes"), ("no", "no")], "yes"))
        default_weight = f"{facts.rerank_weight:.2f}"
        inputs.append(
            _input(
                fields, "rerank_weight", "Weight of the reranker", step="any", min=0, max=1, placeholder=default_weight
            )
        )
    filters = [*fields.get("filter", ()), ""]
    hint = "source=manual,mail or year>=2000 or path~docs"
    boxes = [
        el("input", name="filter", value=text, maxlength=MAX_QUERY_CHARS, placeholder=hint, aria_label="Filter")
        for text in filters
    ]
    inputs.append(el("div", el("span", "Only where", class_="label"), *boxes, class_="field wide"))
    return el("div", *inputs, class_="fields")


def _weights(facts: IndexFacts, fields: Form) -> Html:
    """One number if there is one model besides BM25, else a weight per mode."""
    if len(facts.weights) == 2 and "weights" not in fields:
        (weight,) = [weight for mode, weight in facts.weights.items() if mode != BM25]
        return _input(fields, "weight", "Weight of the model", step="any", min=0, max=1, placeholder=f"{weight:.2f}")
    usual = ",".join(f"{mode}={weight:.2f}" for mode, weight in facts.weights.items())
    return _input(fields, "weights", "Weights of the modes", type="text", maxlength=MAX_QUERY_CHARS, placeholder=usual)


def _select(fields: Form, name: str, label: str, options: Sequence[tuple[str, str]], default: str) -> Html:
    """A list of values. `default`: the value if none is given, which may also be given by name."""
    held = first_value(fields, name)
    held = "" if held == default else held
    made = [el("option", text, value=value, selected="" if value == held else None) for value, text in options]
    chosen = el("select", *made, name=name, id=name)
    return el("div", el("label", label, for_=name), chosen, class_="field")


def _input(fields: Form, name: str, label: str, **attributes: Any) -> Html:
    attributes_shown = {"type": "number", **attributes}
    box = el("input", name=name, id=name, value=first_value(fields, name), **attributes_shown)
    return el("div", el("label", label, for_=name), box, class_="field")


def _results(facts: IndexFacts, fields: Form, answer: SearchResult) -> Html:
    total = sum(answer.seconds.values())
    count = len(answer.hits)
    summary_text = "No passages" if not count else f"{count} passage{'s' if count > 1 else ''}"
    summary = el("p", f"{summary_text} · {answer.mode} · {1000 * total:.1f} ms", class_="faint", role="status")
    if not count:
        advice = "Try other words, another mode, or fewer filters."
        return el("section", summary, _timing(answer.seconds), el("p", advice), aria_label="Results")
    stages = _stages(answer.hits)
    ranges = {stage: _range(answer.hits, stage) for stage in stages}
    hits = [_hit(fields, hit, ranges) for hit in answer.hits]
    more = []
    if count >= (int(first_value(fields, "top_k") or TOP_K)) and count < MAX_TOP_K:
        more = [
            el("p", el("a", "more passages", href=address("/", fields, top_k=min(2 * count, MAX_TOP_K)), rel="next"))
        ]
    return el("section", summary, _timing(answer.seconds), el("ol", *hits, class_="hits"), *more, aria_label="Results")


def _timing(seconds: dict[str, float]) -> Html:
    """One bar for all stages, and the time of each."""
    total = sum(seconds.values()) or 1.0
    at, drawn = 0.0, []
    for stage, value in seconds.items():
        wide = 100 * value / total
        drawn.append(el("rect", x=f"{at:.2f}", y=0, width=f"{wide:.2f}", height=4, class_=f"s-{stage}"))
        at += wide
    bar = el("svg", *drawn, viewBox="0 0 100 4", preserveAspectRatio="none", class_="times", aria_hidden="true")
    keys = [el("span", f"{stage} {1000 * value:.1f} ms", class_=f"key s-{stage}") for stage, value in seconds.items()]
    return el("div", bar, el("p", *keys, class_="small"), class_="timing")


def _stages(hits: Sequence[SearchHit]) -> tuple[str, ...]:
    """The stages that have scores, and first the final score unless it equals the only one of them."""
    stages = tuple(stage for stage in STAGES if any(getattr(hit, stage) is not None for hit in hits))
    alone = any(all(getattr(hit, stage) == hit.score for hit in hits) for stage in stages)
    return stages if alone else ("score", *stages)


def _range(hits: Sequence[SearchHit], stage: str) -> tuple[float, float]:
    """The values at the two ends of a bar: 0, or the lowest score if it is negative, and the highest score."""
    values = [value for hit in hits if (value := getattr(hit, stage)) is not None]
    return min(0.0, *values), max(values)


def _hit(fields: Form, hit: SearchHit, ranges: dict[str, tuple[float, float]]) -> Html:
    spans = [(a - hit.head, b - hit.head) for a, b in hit.matches if a >= hit.head]
    shown, marks = excerpt(hit.text[hit.head :], spans, WIDTH)
    title = hit.text[: hit.head].strip() or str(hit.metadata.get("title") or hit.document)
    target = address("/document", fields, id=hit.document, passage=hit.number)
    where = str(hit.metadata.get("path") or hit.document)
    where = f"{where} · characters {hit.start:,} to {hit.end:,}"
    about = [details("about the document", metadata(hit.metadata))] if hit.metadata else []
    what = el(
        "div",
        el("h2", el("a", title, href=f"{target}#here", class_="open", dir="auto")),
        el("p", marked(shown, marks), class_="passage", dir="auto"),
        el("p", where, class_="faint small"),
        *about,
        class_="what",
    )
    bars = [_score(stage, value, *ranges[stage]) for stage in ranges if (value := getattr(hit, stage)) is not None]
    return el("li", what, el("div", *bars, class_="scores"), class_="hit", value=hit.rank)


def _score(stage: str, value: float, low: float, high: float) -> Html:
    wide = 100.0 if high <= low else 100 * (value - low) / (high - low)
    drawn = (
        el("rect", x=0, y=0, width=100, height=4, class_="ground"),
        el("rect", x=0, y=0, width=f"{wide:.1f}", height=4),
    )
    bar = el(
        "svg", *drawn, viewBox="0 0 100 4", preserveAspectRatio="none", class_=f"bar s-{stage}", aria_hidden="true"
    )
    name = el("span", stage, title=EXPLAINED.get(stage))
    return el("div", name, el("b", f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"), bar, class_="score")
