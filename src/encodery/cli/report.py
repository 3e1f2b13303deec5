"""encodery report: one self-contained HTML file on a run, with its figures and curves beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="A run folder, as pretrain writes it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file [default: RUN/report.html].")] = None,
    samples: Annotated[bool, typer.Option(help="Run the model on held-out text.")] = True,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Verdict, figures, curves, samples, text, recipe, lineage and licences of a run in one HTML file.

    Figures and curves lie beside it as JSON and CSV. Nothing is loaded from elsewhere when it is read.
    """
    from rich.text import Text

    from encodery.cli._screen import screen
    from encodery.evaluate.report.write import write_report

    written = write_report(run, out, samples)
    console = screen(soft_wrap=True, highlight=True)
    for path in (written.page, written.figures, written.curves):
        console.print(Text(str(path)))
    if open_it:
        import webbrowser

        webbrowser.open(written.page.resolve().as_uri())
