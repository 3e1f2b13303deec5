"""encodery tokens: train and measure tokenizers, pack a corpus for training, check a packed corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from encodery.tokens.measure import TokenizerFigures

app = typer.Typer(help="Turn text into ids: tokenizers and packed corpora.", no_args_is_help=True)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]


@app.command()
def train(
    corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The tokenizer folder to write.")] = ...,  # type: ignore[assignment]
    overwrite: Overwrite = False,
) -> None:
    """Train a tokenizer on a corpus.

    Settings are given as path=value, such as kind=bpe, vocab=16384, kind.lowercase=true or sample_bytes=50000000.
    `encodery show tokens.kind` lists the kinds.
    """
    from encodery.base.settings import overrides, with_overrides
    from encodery.cli._screen import screen
    from encodery.tokens.train import TokenizerSettings, train_tokenizer

    console = screen(highlight=True)
    chosen = with_overrides(TokenizerSettings, {}, overrides(settings or []), where="tokenizer")
    with console.status("training"):
        artifact = train_tokenizer(corpus, out, chosen, overwrite=overwrite)
    figures = artifact.manifest.figures
    console.print(
        f"[bold]{out}[/]: {figures['used_size']:,} ids in tables of {figures['vocab_size']:,}, from "
        f"{figures['sample_documents']:,} of {figures['offered_documents']:,} documents "
        f"({figures['sample_bytes'] / 1e6:,.1f} MB) in {figures['seconds']:,.1f} s"
    )


@app.command()
def measure(
    tokenizers: Annotated[list[Path], typer.Argument(help="Tokenizer folders, to be set side by side.")],
    on: Annotated[Path, typer.Option("--on", help="A corpus folder; its held-out text is used.")],
    limit: Annotated[int, typer.Option(help="Bytes of text at most.", min=1)] = 20_000_000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file as well.")] = None,
) -> None:
    """Tokens per word, bytes per token, unknown pieces, vocabulary use, per tokenizer and per source."""
    import json

    from encodery.base.artifact import atomic_write
    from encodery.cli._screen import screen
    from encodery.tokens.measure import compare

    console = screen(highlight=True)
    with console.status("measuring"):
        found = compare(tokenizers, on, limit)
    console.print(_figures_table(found))
    if any(figures.sources for figures in found):
        console.print(_sources_table(found))
    for figures in found:
        common = " ".join(piece for piece, _ in figures.commonest_pieces)
        console.print(f"{figures.name}: longest {', '.join(figures.longest_pieces)}; commonest {common}", markup=False)
    if json_out is not None:
        atomic_write(json_out, json.dumps([figures.table() for figures in found], indent=1, ensure_ascii=False) + "\n")


@app.command()
def pack(
    corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
    tokenizer: Annotated[Path, typer.Argument(help="A tokenizer folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of packed ids to write.")],
    workers: Annotated[int | None, typer.Option(help="Processes [default: one for 8 cores].", min=1)] = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode a corpus into memory-mapped shards of ids.

    An interrupted pack goes on when the same command is given again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from encodery.cli._screen import screen
    from encodery.tokens.pack import pack as run

    console = screen(highlight=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(f"{name} shards", total=None) for name in ("train", "heldout")}

        def watch(split: str, done: int, total: int) -> None:
            progress.update(tasks[split], completed=done, total=total)

        run(corpus, tokenizer, out, workers=workers, overwrite=overwrite, watch=watch)
    console.print(_store_table(out))


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="A folder of packed ids.")]) -> None:
    """Read every file of a packed corpus and compare its SHA-256; show what it holds."""
    from encodery.cli._screen import screen
    from encodery.tokens.store import TokenStore

    console = screen(highlight=True)
    with console.status("reading"):
        TokenStore.open(store, verify=True)
    console.print(_store_table(store))
    console.print("every file is what was written")


@app.command()
def pieces(
    tokenizer: Annotated[Path, typer.Argument(help="A tokenizer folder.")],
    text: Annotated[str, typer.Argument(help="Any text; [MASK] and its like are understood.")],
) -> None:
    """The pieces a text becomes, with their ids."""
    from encodery.cli._screen import screen
    from encodery.tokens.tokenizer import Tokenizer

    words = Tokenizer.load(tokenizer)
    ids = words.encode(text, specials=True, markup=True).tolist()
    screen().print("  ".join(f"{words.piece(number)} {number}" for number in ids), markup=False)


def _figures_table(found: list[TokenizerFigures]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{found[0].documents:,} documents, {found[0].bytes / 1e6:,.2f} MB", title_justify="left")
    table.add_column("")
    for figures in found:
        table.add_column(escape(figures.name), justify="right")
    rows = {
        "vocabulary": [f"{f.vocab_size:,}" for f in found],
        "tokens": [f"{f.tokens:,}" for f in found],
        "tokens per word": [f"{f.tokens_per_word:.3f}" for f in found],
        "bytes per token": [f"{f.bytes_per_token:.3f}" for f in found],
        "unknown": [f"{f.unknown_rate:.4%}" for f in found],
        "words kept whole": [f"{f.whole_words:.1%}" for f in found],
        "vocabulary used": [f"{f.vocabulary_used:.1%}" for f in found],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _sources_table(found: list[TokenizerFigures]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="bytes per token, per source", title_justify="left")
    table.add_column("source")
    table.add_column("MB", justify="right")
    for figures in found:
        table.add_column(escape(figures.name), justify="right")
    for source, first in found[0].sources.items():
        values = [f"{f.sources[source].bytes_per_token:.3f}" for f in found]
        table.add_row(escape(source), f"{first.bytes / 1e6:,.2f}", *values)
    return table


def _store_table(folder: Path) -> Table:
    from rich.table import Table

    from encodery.tokens.store import SPLITS, TokenStore

    store = TokenStore.open(folder)
    table = Table(title=f"{folder}: {store.dtype}, {store.specials.vocab_size:,} ids", title_justify="left")
    for column in ("split", "documents", "tokens", "MB of text", "bytes per token", "unknown"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name in SPLITS:
        split = store.split(name)
        tokens = max(split.tokens, 1)
        table.add_row(
            name,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.bytes / 1e6:,.2f}",
            f"{split.bytes / tokens:.3f}",
            f"{split.unknown / tokens:.4%}",
        )
    return table
