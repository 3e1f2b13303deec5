"""Run the whole path on real text: corpus, tokenizer, encoder, search, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    text: Annotated[
        Path | None, typer.Option(help="A folder of your own text [default: gathered documentation].")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything is put.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Time for all of it; pre-training gets what is left.", min=1)] = 10.0,
    recipe: Annotated[str, typer.Option(help="The recipe to pre-train.")] = "demo",
    since: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the whole path on real text and end with a report and a search prompt.

    What is finished is kept: run it again to go on. The text is documentation fetched from packages, or a folder
    given with --text.
    """
    import subprocess
    import sys
    import time

    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.demo.run import Demo

    if text is not None and not text.is_dir():
        raise InputError(f"--text {text}: no such folder.")
    console = screen(highlight=True)
    start = time.time() if since is None else since
    report = Demo(out, text, minutes, start, recipe).run(lambda line: console.print(f"[dim]{line}[/]"))
    console.print(f"\nDone in {(time.time() - start) / 60:.1f} minutes. Open [bold]{report.resolve()}[/] in a browser.")
    console.print(f"Fill a mask: [bold]encodery fill 'The [MASK] command ...' --model {out / 'run'}[/]", markup=True)
    subprocess.run(
        [sys.executable, "-m", "encodery", "search", "query", str(out / "index"), "--interactive"], check=False
    )
