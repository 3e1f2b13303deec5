"""encodery demo: run the whole path on real text: corpus, tokenizer, encoder, search, export, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    text: Annotated[
        Path | None, typer.Option(help="A folder of text [default: documentation collected from packages].")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for everything that is written.")] = Path("demo"),
    minutes: Annotated[
        float, typer.Option(help="The total time, in minutes; pre-training gets what the other steps leave.", min=1)
    ] = 10.0,
    recipe: Annotated[str, typer.Option(help="The recipe for pre-training.")] = "demo",
    since: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the whole path on real text and end with a report and a search prompt.

    Finished steps are kept: run the command again to continue. The text is documentation downloaded with packages, or a
    folder given with --text.
    """
    import subprocess
    import sys
    import time

    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.demo.run import Demo

    if text is not None and not text.is_dir():
        raise InputError(f"--text {text}: there is no such folder.")
    console = screen(highlight=True)
    start = time.time() if since is None else since
    report = Demo(out, text, minutes, start, recipe).run(lambda line: console.print(f"[dim]{line}[/]"))
    console.print(f"\nDone in {(time.time() - start) / 60:.1f} minutes. Open [bold]{report.resolve()}[/] in a browser.")
    console.print(f"Fill a mask: [bold]encodery fill 'The [MASK] command ...' --model {out / 'run'}[/]", markup=True)
    subprocess.run(
        [sys.executable, "-m", "encodery", "search", "query", str(out / "index"), "--interactive"], check=False
    )
