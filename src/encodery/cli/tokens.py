"""encodery tokens: train and measure tokenizers, and encode a corpus for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import Overwrite, Settings

if TYPE_CHECKING:
    from rich.table import Table

    from encodery.tokens.measure import TokenizerMetrics

app = typer.Typer(help="Train tokenizers and encode corpora with them.", no_args_is_help=True)


@app.command()
def train(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="The corpus folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The tokenizer folder to write.")],
    settings: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a tokenizer on a corpus.

    Settings are written as path=value, such as kind=bpe, vocab_size=16384, kind.lowercase=true or
    sample_bytes=50000000. `encodery show tokens.kind` lists the kinds.
    """
    from encodery.base.settings import decode_with_overrides, parse_overrides
    from encodery.cli._screen import screen
    from encodery.tokens.train import TokenizerSettings, train_tokenizer

    console = screen(highlight=True)
    chosen = decode_with_overrides(TokenizerSettings, {}, parse_overrides(settings or []), where="tokenizer")
    with console.status(f"training on at most {chosen.max_sample_bytes / 1e6:,.0f} MB of text"):
        artifact = train_tokenizer(corpus, out, chosen, overwrite=overwrite)
    metrics = artifact.manifest.metrics
    console.print(
        f"[bold]{out}[/]: {metrics['used_size']:,} tokens in a vocabulary of {metrics['vocab_size']:,}, from "
        f"{metrics['sample_documents']:,} of {metrics['offered_documents']:,} documents "
        f"({metrics['sample_bytes'] / 1e6:,.1f} MB) in {metrics['seconds']:,.1f} s"
    )
    if "unknown_rate" in metrics:
        console.print(_information_loss(metrics), markup=False)


@app.command()
def measure(
    tokenizers: Annotated[list[Path], typer.Argument(metavar="TOKENIZER...", help="The tokenizer folders to compare.")],
    corpus: Annotated[Path, typer.Option("--corpus", "-c", help="The corpus folder whose held-out text is encoded.")],
    limit: Annotated[int, typer.Option(help="The maximum amount of text, in bytes.", min=1)] = 20_000_000,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the metrics to this JSON file.")] = None,
) -> None:
    """Compare tokenizers: tokens per word, bytes per token, unknown tokens and use of the vocabulary, per source
    too."""
    import json

    from encodery.base.artifact import atomic_write
    from encodery.cli._screen import screen
    from encodery.tokens.measure import compare

    console = screen(highlight=True)
    with console.status("measuring"):
        measured = compare(tokenizers, corpus, limit)
    console.print(_metrics_table(measured))
    if any(metrics.sources for metrics in measured):
        console.print(_sources_table(measured))
    for metrics in measured:
        common = " ".join(piece for piece, _ in metrics.most_frequent_pieces)
        console.print(
            f"{metrics.name}: longest tokens {', '.join(metrics.longest_pieces)}; most frequent {common}", markup=False
        )
    if json_out is not None:
        atomic_write(
            json_out, json.dumps([metrics.table() for metrics in measured], indent=1, ensure_ascii=False) + "\n"
        )


@app.command()
def encode(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="The corpus folder.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", "-t", help="The tokenizer folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The token folder to write.")],
    workers: Annotated[
        int | None, typer.Option(help="The number of processes [default: one per 8 CPUs].", min=1)
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="A field of the documents' metadata, such as title, path or source: documents with the same value "
            "there are related, for objectives that look across documents [default: none are related].",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode a corpus with a tokenizer into memory-mapped shards of token ids.

    Run the same command again to continue an interrupted run.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from encodery.cli._screen import screen
    from encodery.tokens.encode import encode_corpus as run

    console = screen(highlight=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(f"{name} shards", total=None) for name in ("train", "heldout")}

        def watch(split: str, done: int, total: int) -> None:
            progress.update(tasks[split], completed=done, total=total)

        run(corpus, tokenizer, out, workers=workers, overwrite=overwrite, on_progress=watch, group_by=group_by)
    console.print(_store_table(out))


@app.command()
def verify(store: Annotated[Path, typer.Argument(metavar="TOKENS", help="The token folder.")]) -> None:
    """Check the SHA-256 of every file of a token folder and print what it holds."""
    from encodery.cli._screen import screen
    from encodery.tokens.store import TokenStore

    console = screen(highlight=True)
    with console.status("reading"):
        TokenStore.open(store, verify=True)
    console.print(_store_table(store))
    console.print("Every file matches its checksum.")


@app.command()
def split(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The text; special tokens such as [MASK] are recognised.")
    ],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", "-t", help="The tokenizer folder.")],
) -> None:
    """Print the tokens of a text with their ids."""
    from encodery.cli._screen import screen
    from encodery.tokens.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    ids = loaded.encode(text, add_special_tokens=True, parse_special_tokens=True).tolist()
    screen().print("  ".join(f"{loaded.piece(token)} {token}" for token in ids), markup=False)


def _information_loss(metrics: dict[str, Any]) -> str:
    """What the tokenizer does not keep of the held-out text, in a sentence or two."""
    rate, characters = metrics["unknown_rate"], metrics["unknown_characters"]
    unknown = "No token of the held-out text is unknown"
    if rate:
        unknown = f"{rate:.3%} of the tokens of the held-out text are unknown, such as {' '.join(characters)}"
        unknown += "; kind=bpe and kind=unigram know every character"
    folded = "case and accents are kept"
    if metrics["folded_rate"]:
        folded = f"{metrics['folded_rate']:.1%} of its words are changed by folding case, accents or forms of letters"
    return f"{unknown}; {folded}."


def _metrics_table(measured: list[TokenizerMetrics]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{measured[0].documents:,} documents, {measured[0].bytes / 1e6:,.2f} MB", title_justify="left")
    table.add_column("")
    for metrics in measured:
        table.add_column(escape(metrics.name), justify="right")
    rows = {
        "vocabulary": [f"{f.vocab_size:,}" for f in measured],
        "tokens": [f"{f.tokens:,}" for f in measured],
        "tokens per word": [f"{f.tokens_per_word:.3f}" for f in measured],
        "bytes per token": [f"{f.bytes_per_token:.3f}" for f in measured],
        "unknown": [f"{f.unknown_rate:.4%}" for f in measured],
        "words kept as one token": [f"{f.single_token_words:.1%}" for f in measured],
        "vocabulary used": [f"{f.vocabulary_used:.1%}" for f in measured],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _sources_table(measured: list[TokenizerMetrics]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Bytes per token, by source", title_justify="left")
    table.add_column("source")
    table.add_column("MB", justify="right")
    for metrics in measured:
        table.add_column(escape(metrics.name), justify="right")
    for source, first in measured[0].sources.items():
        values = [f"{f.sources[source].bytes_per_token:.3f}" for f in measured]
        table.add_row(escape(source), f"{first.bytes / 1e6:,.2f}", *values)
    return table


def _store_table(folder: Path) -> Table:
    from rich.table import Table

    from encodery.tokens.store import SPLITS, TokenStore

    store = TokenStore.open(folder)
    table = Table(
        title=f"{folder}: {store.dtype}, vocabulary of {store.special_tokens.vocab_size:,}", title_justify="left"
    )
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
