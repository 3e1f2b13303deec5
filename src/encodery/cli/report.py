"""encodery report: write a self-contained HTML report of a run, with its metrics and training curves as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The HTML file to write [default: RUN/report.html].")
    ] = None,
    samples: Annotated[bool, typer.Option(help="Run the model on held-out text to show example predictions.")] = True,
    open_it: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Write a report: summary, metrics, training curves, example predictions, data set statistics and provenance.

    The metrics and curves are also written as JSON and CSV. The page loads nothing from the network.
    """
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.report.write import write_report

    written = write_report(run, out, samples)
    console = screen(soft_wrap=True, highlight=True)
    for path in (written.page, written.metrics, written.curves):
        console.print(Text(str(path)))
    if open_it:
        import webbrowser

        webbrowser.open(written.page.resolve().as_uri())
