"""encodery search query: search an index and print the passages that match best."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import Json
from encodery.cli.search._shared import Filters, Index, Model, QueryRuntime, Rerank, RerankTopK

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.search.results import SearchResult
    from encodery.search.searcher import Searcher


def command(
    folder: Index,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY]...", help="The text of the query; several words are joined with spaces."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="How passages are ranked: hybrid, dense, sparse, multi_vector or bm25 [default: hybrid if the "
            "index has a model, else bm25]."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="The number of passages to return.", min=1)] = 10,
    filters: Filters = None,
    per_document: Annotated[
        int | None, typer.Option(help="The maximum number of passages from one document [default: no maximum].", min=1)
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            help="The weight of the models in hybrid ranking, from 0 (BM25 alone) to 1, or one weight per "
            "retriever, such as bm25=0.5,dense=0.5 [default: the weight stored in the index]."
        ),
    ] = None,
    fusion: Annotated[
        str, typer.Option(help="What hybrid ranking combines: scores, or ranks (reciprocal rank fusion).")
    ] = "scores",
    rerank: Rerank = None,
    rerank_top_k: RerankTopK = 30,
    rerank_weight: Annotated[
        float | None,
        typer.Option(
            help="The weight of the reranker's score, from 0 to 1; the retrieval score has the rest, and 1 "
            "ranks by the reranker alone [default: the weight that `encodery search tune-rerank` stored, "
            "else 0.5]."
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Read queries from a prompt until an empty line.")
    ] = False,
    as_json: Json = False,
    model: Model = None,
    runtime: QueryRuntime = None,
) -> None:
    """Search an index. Each result shows its BM25 score, its score by each model, and its position in the document."""
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.filters import parse
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import Reranking, Searcher
    from encodery.search.tune_rerank import rerank_weight_of

    query = " ".join(words or [])
    if not query and not interactive:
        raise InputError("Give a query, or --interactive.")
    conditions, console, weights = parse(filters or []), screen(), _weights(weight)
    reranker = None if rerank is None else reranker_of(rerank).open()

    with Searcher.open(folder, model=model, runtime=runtime) as searcher:
        reranking = None
        if rerank is not None and reranker is not None:
            stored = rerank_weight_of(searcher.index.path, rerank)
            reranking = Reranking(reranker, rerank_top_k, stored if rerank_weight is None else rerank_weight)
        printed: set[str] = set()

        def answer(text: str) -> None:
            results = searcher.search(text, top_k, mode, conditions, per_document, weights, fusion, reranking)
            for note in searcher.warnings:
                if note not in printed:
                    printed.add(note)
                    screen(stderr=True).print(note, style="dim", soft_wrap=True)
            if as_json:
                print(json.dumps(_as_table(results), ensure_ascii=False))
            else:
                _print(console, results)
            if not results.hits and (message := searcher.unknown_fields(conditions)):
                screen(stderr=True).print(message, style="dim", soft_wrap=True)

        if query:
            answer(query)
        if interactive:
            _converse(console, searcher, answer)


def _weights(text: str | None) -> float | dict[str, float] | None:
    """Parse --weight. Raises `InputError` if it is neither a number nor a list of weights."""
    from encodery.base.errors import InputError
    from encodery.search.fuse import parse_weights

    if text is None:
        return None
    if "=" in text:
        return parse_weights(text)
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--weight {text}: give a number, or several such as bm25=0.5,dense=0.5.") from error


def _converse(console: Console, searcher: Searcher, answer: Any) -> None:
    """Read queries from a prompt until an empty line, or from the lines of the input if it is not a terminal."""
    from encodery.base.errors import UserError

    searcher.warm_up()
    interactive = sys.stdin.isatty()
    if interactive:
        console.print("Type a query; an empty line ends.", style="dim")
    while True:
        try:
            text = input("search> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not text:
            if interactive:
                break
            continue
        try:
            answer(text)
        except UserError as error:
            console.print(f"error: {error}", style="red", markup=False)


def _as_table(results: SearchResult) -> dict[str, Any]:
    hits = [
        {
            "rank": hit.rank,
            "score": hit.score,
            "bm25": hit.bm25,
            "dense": hit.dense,
            "sparse": hit.sparse,
            "multi_vector": hit.multi_vector,
            "rerank": hit.rerank,
            "document": hit.document,
            "start": hit.start,
            "end": hit.end,
            "text": hit.text,
            "matches": hit.matches,
            "metadata": hit.metadata,
        }
        for hit in results.hits
    ]
    seconds = {stage: round(value, 6) for stage, value in results.seconds.items()}
    return {"query": results.query, "mode": results.mode, "hits": hits, "seconds": seconds}


def _print(console: Console, results: SearchResult) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.search.excerpt import excerpt

    stages = ", ".join(f"{stage} {1000 * value:.1f}" for stage, value in results.seconds.items())
    latency = f"{1000 * sum(results.seconds.values()):.1f} ms ({stages})"
    if not results.hits:
        console.print(f"No results. {latency}", style="dim")
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    sides = _score_columns(results)
    for name in ("", "score", *sides):
        table.add_column(name, justify="right", no_wrap=True, vertical="top")
    table.add_column("passage", ratio=1, overflow="fold")
    for hit in results.hits:
        start = hit.head
        spans = [(a - start, b - start) for a, b in hit.matches if a >= start]
        shown, marks = excerpt(hit.text[start:], spans, 260)
        passage = Text(shown)
        for a, b in marks:
            passage.stylize("bold yellow", a, b)
        title = hit.text[:start].strip()
        where = str(hit.metadata.get("path") or hit.document)
        where += f"#{hit.document}" if "id" in hit.metadata or "_id" in hit.metadata else ""
        origin = f"{title} · {where}" if title and title != where else where
        passage.append(f"\n{origin}  [{hit.start}:{hit.end}]", style="dim")
        scores = [f"{getattr(hit, side):.2f}" for side in sides]
        table.add_row(str(hit.rank), f"{hit.score:.3f}", *scores, passage)
    console.print(table)
    console.print(f"{results.mode}, {len(results.hits)} passages, {latency}", style="dim")


def _score_columns(results: SearchResult) -> tuple[str, ...]:
    """Return the stages whose scores are shown beside the final one; none if there is a single stage."""
    first = results.hits[0]
    sides = tuple(
        name for name in ("bm25", "dense", "sparse", "multi_vector", "rerank") if getattr(first, name) is not None
    )
    return sides if len(sides) > 1 else ()
