"""encodery search page: search an index in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def page(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.")],
    rerank: Annotated[
        Path | None,
        typer.Option(help="What orders the first passages anew: a cross-encoder, token vectors or term weights."),
    ] = None,
    reranked: Annotated[int, typer.Option(help="How many passages --rerank reads.", min=1)] = 30,
    host: Annotated[
        str, typer.Option(help="Where to listen. Anything but this machine's own address lets others search too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8765,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The model, where it is not where it was.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs the model: as for index [default: what made the index's vectors]."),
    ] = None,
) -> None:
    """Serve a page to search the index with, until Ctrl-C: passages with their words marked, every stage's score and
    time, and documents. What it shows is also there as JSON, at /search?q=...
    """
    from encodery.cli._screen import screen
    from encodery.search.page.answers import Answers
    from encodery.search.page.server import PageServer
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import RERANK_WEIGHT, Searcher
    from encodery.search.trust import share_of

    console = screen()
    reranker = None if rerank is None else reranker_of(rerank).open()
    name = None if rerank is None else rerank.resolve().name
    with (
        Searcher(folder, model=model, runtime=runtime) as searcher,
        Answers(searcher, reranker, reranked, name, share_of(folder, rerank) if rerank else RERANK_WEIGHT) as answers,
        PageServer(answers, host, port) as server,
    ):
        answers.warm()
        for note in searcher.notes:
            console.print(note, style="dim", soft_wrap=True)
        console.print(f"{folder}: {server.url}  (Ctrl-C ends)", soft_wrap=True)
        if show:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended", style="dim")
