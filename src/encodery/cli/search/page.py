"""encodery search page: search an index in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from encodery.cli.search._shared import Index, QueryRuntime, Rerank, RerankTopK


def command(
    folder: Index,
    rerank: Rerank = None,
    rerank_top_k: RerankTopK = 30,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. With the default, only this machine can connect; 0.0.0.0 lets "
            "other machines connect."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 chooses a free port.", min=0, max=65535)] = 8765,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="The present folder of the model of the index, if it has moved since the index was built.",
        ),
    ] = None,
    runtime: QueryRuntime = None,
) -> None:
    """Serve a search page until Ctrl-C.

    It shows passages with the matching terms marked, the score and time of every stage, and whole documents. The same
    results are available as JSON at /search?q=...
    """
    from encodery.cli._screen import screen
    from encodery.search.page.responder import PageResponder
    from encodery.search.page.server import PageServer
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import Reranking, Searcher
    from encodery.search.tune_rerank import rerank_weight_of

    console = screen()
    reranker = None if rerank is None else reranker_of(rerank).open()
    name = "" if rerank is None else rerank.resolve().name
    reranking = None
    if rerank is not None and reranker is not None:
        reranking = Reranking(reranker, rerank_top_k, rerank_weight_of(folder, rerank))
    with (
        Searcher.open(folder, model=model, runtime=runtime) as searcher,
        PageResponder(searcher, reranking, name) as answers,
        PageServer(answers, host, port) as server,
    ):
        answers.warm_up()
        for note in searcher.warnings:
            console.print(note, style="dim", soft_wrap=True)
        console.print(f"{folder}: {server.url}  (Ctrl-C stops)", soft_wrap=True)
        if open_it:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("Stopped.", style="dim")
