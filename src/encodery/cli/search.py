"""encodery search: index documents and ask for the passages that answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._search_encode import Runtime, encode, take
from encodery.cli._search_page import page
from encodery.cli._search_weigh import weigh

if TYPE_CHECKING:
    from rich.console import Console

    from encodery.search.searcher import Answer, Searcher

app = typer.Typer(help="Index documents and search them by words and by meaning.", no_args_is_help=True)
app.command()(encode)
app.command()(page)
app.command()(weigh)
Index = Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.")]
Model = Annotated[
    list[Path] | None,
    typer.Option("--model", "-m", help="The model, where it is not where it was; may be given several times."),
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", help="field=a,b  field!=a  field~part  field>=number; may be given several times."),
]


@app.command()
def index(
    out: Annotated[Path, typer.Option("--out", "-o", help="The index folder to write.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE... [path=value ...]", help="Corpora, folders, globs, files; then settings."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            help="The encoder: of vectors, of learned sparse vectors, of a vector a token; one of each may be given. "
            "Without it the index is of words alone.",
        ),
    ] = None,
    encoded: Annotated[
        Path | None, typer.Option(help="A folder of `search encode` instead of sources; needs no model.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    runtime: Runtime = None,
) -> None:
    """Cut documents into passages, encode and store them.

    Settings are given as path=value, such as passages.size=200, passages.overlap=20, engine.language=german,
    weight=0.3, text=body, or vectors=int8 (how they are stored: fp32, fp16, int8, binary). An interrupted build goes
    on when the same command is given again.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.encoded import build_encoded
    from encodery.search.index import IndexSettings, build
    from encodery.search.sides import loaded

    sources, settings = take(arguments or [], IndexSettings, "index")
    if encoded is not None and sources:
        raise InputError(f"{sources[0]}: --encoded takes the place of sources; give one or the other.")
    console = screen()
    sides, paths = loaded(model or [], runtime)
    with _Progress(console) as progress:
        if encoded is not None:
            built = build_encoded(encoded, out, sides, settings, overwrite, progress)
        else:
            built = build(sources, out, sides, settings, paths, overwrite, progress)
    if not built.fresh:
        console.print(f"{out}: already there, made of the same files, settings and model; nothing to do.")
    _show(console, built.artifact.manifest.figures, out)


@app.command()
def query(
    folder: Index,
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORDS]...", help="What to look for.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="hybrid, dense, sparse, late or bm25 [default: hybrid where there is a model]."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many passages.", min=1)] = 10,
    filters: Filters = None,
    per_document: Annotated[int | None, typer.Option(help="At most so many passages of one document.", min=1)] = None,
    weight: Annotated[
        str | None,
        typer.Option(help="Share of the models, 0 to 1, or of each: bm25=0.5,dense=0.5 [default: the index's]."),
    ] = None,
    fusion: Annotated[
        str, typer.Option(help="Hybrid ranking by a mixture of scores, or of reciprocal ranks.")
    ] = "scores",
    rerank: Annotated[
        Path | None,
        typer.Option(help="What orders the first passages anew: a cross-encoder, token vectors or term weights."),
    ] = None,
    reranked: Annotated[int, typer.Option(help="How many passages --rerank reads.", min=1)] = 30,
    rerank_weight: Annotated[
        float | None,
        typer.Option(
            help="Share of the reranker beside what found the passages; 1: its order alone [default: what `search "
            "trust` found, else half]."
        ),
    ] = None,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Ask again and again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: Model = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs the model: as for index [default: what made the index's vectors]."),
    ] = None,
) -> None:
    """Find passages. Each shows its scores by words (BM25) and by models, and where it stands."""
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.filters import parse
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import RERANK_WEIGHT, Searcher
    from encodery.search.trust import share_of

    asked = " ".join(words or [])
    if not asked and not interactive:
        raise InputError("Say what to look for, or use --interactive.")
    conditions, console, share = parse(filters or []), screen(), _share(weight)
    reranker = None if rerank is None else reranker_of(rerank).open()

    with Searcher(folder, model=model, runtime=runtime) as searcher:
        noted = RERANK_WEIGHT if rerank is None else share_of(searcher.path, rerank)
        last = noted if rerank_weight is None else rerank_weight
        told: set[str] = set()

        def answer(text: str) -> None:
            found = searcher.search(text, top, mode, conditions, per_document, share, fusion, reranker, reranked, last)
            for note in searcher.notes:
                if note not in told:
                    told.add(note)
                    screen(stderr=True).print(note, style="dim", soft_wrap=True)
            if as_json:
                print(json.dumps(_table(found), ensure_ascii=False))
            else:
                _print(console, found)
            if not found.found and (said := searcher.strange(conditions)):
                screen(stderr=True).print(said, style="dim", soft_wrap=True)

        if asked:
            answer(asked)
        if interactive:
            _converse(console, searcher, answer)


@app.command()
def add(
    folder: Index,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Corpora, folders, globs, files.")],
    model: Model = None,
) -> None:
    """Add documents; one whose id is there already replaces it."""
    from encodery.cli._screen import screen
    from encodery.search.change import add as add_documents
    from encodery.search.opened import Opened

    console = screen()
    with Opened(folder, model=model) as opened, _Progress(console) as progress:
        counts = add_documents(opened, sources, progress)
    said = f"{counts['documents']:,} documents in {counts['passages']:,} passages, {counts['replaced']:,} replaced"
    console.print(f"{folder}: {said}, {counts['dropped_tokens']:,} tokens dropped.")
    for reason, number in counts["skipped"].items():
        console.print(f"  passed over: {number:,} {reason}")


@app.command()
def delete(
    folder: Index,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Documents to take out.")] = None,
    filters: Filters = None,
) -> None:
    """Take out documents by id, or all passages a filter holds for."""
    from encodery.cli._screen import screen
    from encodery.search.change import delete as delete_documents
    from encodery.search.filters import parse
    from encodery.search.opened import Opened

    with Opened(folder) as opened:
        gone = delete_documents(opened, ids or [], parse(filters or []))
    screen().print(f"{folder}: {gone['documents']:,} documents, {gone['passages']:,} passages deleted.")


@app.command()
def trust(
    folder: Index,
    rerank: Annotated[Path, typer.Option(help="A cross-encoder, token vectors or term weights.")],
    queries: Annotated[int, typer.Option(help="Sentences of the index to ask by, at most.", min=30)] = 200,
    model: Model = None,
) -> None:
    """Find how much of the last word a reranker deserves here, by sentences that ask for the passages they were taken
    out of; `query --rerank` then takes that share."""
    from encodery.cli._screen import screen
    from encodery.search import trust as trusting
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import Searcher

    console = screen()
    with Searcher(folder, model=model) as searcher, console.status("asking") as status:
        found = trusting.trust(
            searcher, reranker_of(rerank).open(), queries, lambda done, all_: status.update(f"asked {done} of {all_}")
        )
        trusting.note(searcher.path, rerank, found)
    curve = ", ".join(f"{share} {mean:.3f}" for share, mean in found.curve.items())
    console.print(f"{folder}: {rerank} has a share of {found.share:.2f} in the last word.", soft_wrap=True)
    console.print(f"  mean reciprocal rank of {found.queries} sentences, by share: {curve}", soft_wrap=True)


@app.command()
def compact(folder: Index) -> None:
    """Give back the room of what was deleted or replaced, and put the rest in order for fast queries."""
    from encodery.cli._screen import screen
    from encodery.search.change import compact as compact_store
    from encodery.search.opened import Opened

    with Opened(folder) as opened:
        before, after = compact_store(opened)
    screen().print(f"{folder}: {before / 1e6:,.1f} MB, now {after / 1e6:,.1f} MB.")


@app.command()
def stats(folder: Index, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What an index holds and how it was made."""
    from encodery.cli._screen import screen
    from encodery.search.opened import Opened

    with Opened(folder) as opened:
        held = opened.artifact.manifest
        figures = {**held.figures, "documents": opened.store.documents(), "passages": opened.store.count()}
        models, weights = opened.models, opened.weights
    figures |= {"weight": opened.weight, "weights": weights}
    if as_json:
        print(json.dumps({**figures, "models": models, "created": held.created}))
        return
    console = screen()
    _show(console, figures, folder)
    for mode, model in models.items():
        runtime = model.get("runtime", {}).get("name")
        ran = {None: "", "": "", "torch": ", run in float32"}.get(runtime, f", run by {runtime}")
        where = (model["path"] or "a model in no folder") + ran
        console.print(f"  {mode:<10} {where}, share {weights[mode]:.2f}", soft_wrap=True)
    if not models:
        console.print("  model      none: words alone")


def _share(written: str | None) -> float | dict[str, float] | None:
    """What --weight says. Raises `InputError`."""
    from encodery.base.errors import InputError
    from encodery.search.fuse import read_shares

    if written is None:
        return None
    if "=" in written:
        return read_shares(written)
    try:
        return float(written)
    except ValueError as error:
        raise InputError(f"weight = '{written}': is a number, or several such as bm25=0.5,dense=0.5.") from error


def _show(console: Console, figures: dict[str, Any], folder: Path) -> None:
    documents, passages = figures["documents"], figures["passages"]
    console.print(f"{folder}: {documents:,} documents in {passages:,} passages, {figures['bytes'] / 1e6:,.1f} MB")
    seconds = figures["seconds"]
    console.print(f"  built in   {seconds:,.1f} s ({passages / max(seconds, 1e-9):,.0f} passages/s)")
    if "vectors" in figures:
        near = figures.get("agreement")
        apart = "" if near is None else f", {near:.1%} of a passage's ten nearest are those of fp32"
        console.print(f"  vectors    {figures['vectors']}{apart}")
    console.print(f"  weight     {figures['weight']:.2f} of the models beside words in hybrid ranking")
    if figures.get("replaced"):
        console.print(f"  replaced   {figures['replaced']:,} documents by later ones of the same id")
    if figures.get("dropped_tokens"):
        console.print(
            f"  dropped    {figures['dropped_tokens']:,} of {figures['tokens']:,} tokens, too long for the model"
        )
    for reason, number in figures.get("skipped", {}).items():
        console.print(f"  left out   {number:,} {reason}")


def _converse(console: Console, searcher: Searcher, answer: Any) -> None:
    """A prompt until an empty line or the end of the input; where nobody sits there, the lines of the input."""
    from encodery.base.errors import UserError

    searcher.warm()
    someone = sys.stdin.isatty()
    if someone:
        console.print("Ask for something; an empty line ends.", style="dim")
    while True:
        try:
            text = input("search> " if someone else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not text:
            if someone:
                break
            continue
        try:
            answer(text)
        except UserError as error:
            console.print(f"error: {error}", style="red", markup=False)


def _table(found: Answer) -> dict[str, Any]:
    hits = [
        {
            "rank": hit.rank,
            "score": hit.score,
            "words": hit.words,
            "vector": hit.vector,
            "sparse": hit.sparse,
            "late": hit.late,
            "rerank": hit.rerank,
            "document": hit.document,
            "start": hit.start,
            "end": hit.end,
            "text": hit.text,
            "matches": hit.matches,
            "metadata": hit.metadata,
        }
        for hit in found.found
    ]
    seconds = {stage: round(value, 6) for stage, value in found.seconds.items()}
    return {"query": found.query, "mode": found.mode, "hits": hits, "seconds": seconds}


def _print(console: Console, found: Answer) -> None:
    from rich.table import Table
    from rich.text import Text

    from encodery.search.excerpt import excerpt

    stages = ", ".join(f"{stage} {1000 * value:.1f}" for stage, value in found.seconds.items())
    latency = f"{1000 * sum(found.seconds.values()):.1f} ms ({stages})"
    if not found.found:
        console.print(f"Nothing found. {latency}", style="dim")
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    sides = _shown(found)
    for name in ("", "score", *sides):
        table.add_column(name, justify="right", no_wrap=True, vertical="top")
    table.add_column("passage", ratio=1, overflow="fold")
    for hit in found.found:
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
    console.print(f"{found.mode}, {len(found.found)} passages, {latency}", style="dim")


def _shown(found: Answer) -> tuple[str, ...]:
    """The stages whose scores stand beside the one that ranks."""
    first = found.found[0]
    sides = tuple(name for name in ("words", "vector", "sparse", "late", "rerank") if getattr(first, name) is not None)
    return sides if len(sides) > 1 else ()


class _Progress:
    """Documents and passages so far, and their speed; called by the build."""

    def __init__(self, console: Console) -> None:
        import time

        self._status = console.status("Reading documents …")
        self._begun, self._first = time.perf_counter(), -1

    def __enter__(self) -> _Progress:
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.__exit__(None, None, None)

    def __call__(self, documents: int, passages: int) -> None:
        import time

        if self._first < 0:
            self._begun, self._first = time.perf_counter(), passages
        seconds = time.perf_counter() - self._begun
        speed = f", {(passages - self._first) / seconds:,.0f} passages/s" if seconds > 1 else ""
        self._status.update(f"{documents:,} documents, {passages:,} passages{speed}")
