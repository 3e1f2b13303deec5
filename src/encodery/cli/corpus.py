"""encodery corpus: build a corpus from files and print its statistics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import Overwrite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from encodery.corpus.stats import CorpusStats

app = typer.Typer(help="Build a clean, deduplicated corpus with held-out text from files.", no_args_is_help=True)


@app.command()
def build(
    arguments: Annotated[
        list[str], typer.Argument(metavar="SOURCE... [path=value ...]", help="Folders, globs or files; then settings.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The corpus folder to write.")],
    workers: Annotated[
        int | None, typer.Option(help="The number of parallel processes [default: one per CPU thread].", min=1)
    ] = None,
    engine: Annotated[str, typer.Option(help="Where the work runs: local, or ray for a Ray cluster.")] = "local",
    licence: Annotated[str | None, typer.Option("--license", help="The licence of documents that state none.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read, clean, filter and deduplicate text, and hold out a fraction of it for evaluation.

    Reads .txt .md .rst .html .jsonl .csv .tsv .parquet, also .gz .zst .xz .bz2. Settings are written as path=value,
    such as heldout=0.02, text=body, filter.length.min_words=5, filter.c4=c4 or skip='["minhash"]'. Run the same command
    again to continue an interrupted build.
    """
    from encodery.base.settings import decode_with_overrides, parse_overrides
    from encodery.cli._screen import screen
    from encodery.corpus.run import build_corpus as run
    from encodery.corpus.settings import CorpusSettings

    sources, assignments = _split(arguments)
    table = parse_overrides(assignments) | ({"license": licence} if licence is not None else {})
    settings = decode_with_overrides(CorpusSettings, {}, table, where="corpus")
    console = screen(highlight=True)
    with _Bar(console) as bar:
        built = run(
            sources,
            out,
            settings,
            engine=engine,  # type: ignore[arg-type]
            workers=workers,
            overwrite=overwrite,
            progress=bar.update,
        )
    if not built.fresh:
        console.print(f"{out}: is up to date with these files and settings; nothing to do.")
    _show_report(console, out)


@app.command()
def stats(corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="The corpus folder.")]) -> None:
    """Print documents, words, lengths, scripts, sources and licences of a corpus, and what was dropped."""
    from encodery.cli._screen import screen
    from encodery.corpus.stats import measure_corpus

    console = screen(highlight=True)
    measured = measure_corpus(corpus)
    _show_report(console, corpus)
    _show_measured(console, measured)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into sources and settings: an argument with `=` is a setting unless such a file exists."""
    settings = [a for a in arguments if "=" in a and not os.path.exists(a)]
    return [a for a in arguments if a not in settings], settings


class _Bar:
    """A progress bar over the passes of a build."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console)
        self.task: tuple[str, TaskID] | None = None

    def update(self, name: str, done: int, total: int) -> None:
        if self.task is None or self.task[0] != name:
            self.task = (name, self.progress.add_task(name, total=total))
        self.progress.update(self.task[1], completed=done)

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _show_report(console: Console, corpus: Path) -> None:
    import json

    from rich.markup import escape

    report = json.loads((corpus / "report.json").read_text(encoding="utf-8"))
    console.print(_steps_table(report))
    inputs = report["input"]
    for title, counts in (("skipped", inputs["skipped"]), ("unreadable", inputs["problems"])):
        if counts:
            order = sorted(counts, key=lambda reason: -counts[reason])
            rest = f", {sum(counts[reason] for reason in order[8:]):,} others" if len(order) > 8 else ""
            console.print(f"{title}: " + ", ".join(f"{counts[r]:,} {escape(r)}" for r in order[:8]) + rest)
    for problem in inputs["problem_files"][:5]:
        console.print(f"  {escape(problem['reason'])}: {escape(problem['path'])} {escape(problem['detail'])}")
    metrics = report["metrics"]
    for kind in ("licenses", "sources"):
        console.print(_breakdown_table(kind, report[kind]))
    console.print(
        f"[bold]{corpus}[/]: {metrics['documents']:,} documents, {_size(metrics['bytes'])}; held out "
        f"{metrics['heldout_documents']:,} documents, {_size(metrics['heldout_bytes'])}"
    )


def _steps_table(report: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="Steps", title_justify="left")
    table.add_column("step", no_wrap=True)
    for column in ("in", "out", "dropped"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("reasons")
    for name, counts in report["steps"].items():
        total = int(counts.get("total", 0))
        if name.startswith("read "):
            table.add_row(name, f"{counts['files']:,} files", f"{counts.get('documents', 0):,}", "", "")
        elif name.startswith("rewrite "):
            split, pieces = int(counts.get("split", 0)), int(counts.get("pieces", 0))
            why = f"{split:,} split into {pieces:,}" if split else f"{counts.get('changed', 0):,} changed"
            table.add_row(name, f"{total:,}", f"{total - split + pieces:,}", "", why)
        elif name != "clean":
            reasons = report["dropped"].get(name, {})
            gone = sum(entry["documents"] for entry in reasons.values())
            why = ", ".join(f"{e['documents']:,} {reason} ({_size(e['bytes'])})" for reason, e in reasons.items())
            table.add_row(name, f"{total:,}", f"{total - gone:,}", f"{gone:,}", why)
    return table


def _breakdown_table(title: str, entries: dict[str, dict[str, int]], max_rows: int = 10) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{title} ({len(entries)})", title_justify="left")
    for column in (title[:-1], "documents", "size"):
        table.add_column(column, justify="left" if column == title[:-1] else "right")
    for name, entry in list(entries.items())[:max_rows]:
        table.add_row(escape(name), f"{entry['documents']:,}", _size(entry["bytes"]))
    return table


def _show_measured(console: Console, measured: CorpusStats) -> None:
    from rich.table import Table

    table = Table(title="Splits", title_justify="left")
    for column in ("split", "documents", "words", "size", "words per document"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, count in measured.documents.items():
        mean = measured.words[split] / count if count else 0
        size = _size(measured.bytes[split])
        table.add_row(split, f"{count:,}", f"{measured.words[split]:,}", size, f"{mean:,.0f}")
    console.print(table)
    console.print(f"words per document (longest {measured.max_words:,})")
    largest = max(measured.histogram.values(), default=1)
    for edge, count in measured.histogram.items():
        console.print(f"  {'≤ ' + format(edge, ','):>12} {count:>9,} {'█' * max(1, round(40 * count / largest))}")
    console.print(
        "scripts: " + ", ".join(f"{name} {fraction:.1%}" for name, fraction in list(measured.scripts.items())[:8])
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
