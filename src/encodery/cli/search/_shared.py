"""Arguments, options and printing that the verbs of `encodery search` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

S = TypeVar("S")
Index = Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.")]
Model = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        "-m",
        help="The present folder of a model of the index, if it has moved since the index was built. May be repeated.",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="A condition on metadata: field=a,b, field!=a, field~substring or field>=number. May be repeated.",
    ),
]
Rerank = Annotated[
    Path | None,
    typer.Option(
        help="The reranker of the top results: a cross-encoder, a multi-vector model, or the term weights "
        "that `encodery search precompute-terms` has written."
    ),
]
RerankTopK = Annotated[int, typer.Option("--rerank-top-k", help="The number of top results that are reranked.", min=1)]
QueryRuntime = Annotated[
    str | None,
    typer.Option(
        help="The runtime that encodes queries: one that `encodery show runtimes` lists, or the folder of "
        "an export [default: the runtime that built the index]."
    ),
]
Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Corpus folders, folders of documents, globs or files.")
]


def split_arguments(arguments: list[str], settings: type[S], where: str) -> tuple[list[str], S]:
    """Split arguments into sources and settings, which are written path=value unless a file has that name."""
    from encodery.base.settings import decode_with_overrides, parse_overrides

    sources = [a for a in arguments if "=" not in a or Path(a).exists()]
    return sources, decode_with_overrides(
        settings, {}, parse_overrides(a for a in arguments if a not in sources), where=where
    )


def print_statistics(console: Console, metrics: dict[str, Any], folder: Path) -> None:
    """Print the size of an index, how it was built and what was left out."""
    documents, passages = metrics["documents"], metrics["passages"]
    console.print(f"{folder}: {documents:,} documents in {passages:,} passages, {metrics['bytes'] / 1e6:,.1f} MB")
    seconds = metrics["seconds"]
    console.print(f"  built in   {seconds:,.1f} s ({passages / max(seconds, 1e-9):,.0f} passages/s)")
    if "vectors" in metrics:
        agreement = metrics.get("exact_recall")
        suffix = "" if agreement is None else f", {agreement:.1%} of the ten nearest neighbours agree with fp32"
        console.print(f"  vectors    {metrics['vectors']}{suffix}")
    if metrics.get("language"):
        console.print(f"  language   {metrics['language']} for BM25 (engine.language=… sets another)")
    console.print(f"  weight     {metrics['weight']:.2f} for the models in hybrid ranking, the rest for BM25")
    if metrics.get("replaced"):
        console.print(f"  replaced   {metrics['replaced']:,} documents by later ones with the same id")
    if metrics.get("dropped_tokens"):
        console.print(
            f"  dropped    {metrics['dropped_tokens']:,} of {metrics['tokens']:,} tokens beyond the model's maximum "
            f"length"
        )
    for reason, number in metrics.get("skipped", {}).items():
        console.print(f"  skipped    {number:,} {reason}")


class Progress:
    """A status line with the documents and passages so far and their speed; the build calls it."""

    def __init__(self, console: Console) -> None:
        import time

        self._status = console.status("Reading documents …")
        self._start, self._first = time.perf_counter(), -1

    def __enter__(self) -> Progress:
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.__exit__(None, None, None)

    def __call__(self, documents: int, passages: int) -> None:
        import time

        if self._first < 0:
            self._start, self._first = time.perf_counter(), passages
        seconds = time.perf_counter() - self._start
        speed = f", {(passages - self._first) / seconds:,.0f} passages/s" if seconds > 1 else ""
        self._status.update(f"{documents:,} documents, {passages:,} passages{speed}")
