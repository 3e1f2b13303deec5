"""encodery search tune-rerank: choose the weight of a reranker for an index, without labelled queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli.search._shared import Index, Model


def command(
    folder: Index,
    rerank: Annotated[
        Path, typer.Option(help="The reranker: a cross-encoder, a multi-vector model or precomputed term weights.")
    ],
    queries: Annotated[
        int, typer.Option(help="The maximum number of sentences of the index that are used as queries.", min=30)
    ] = 200,
    model: Model = None,
) -> None:
    """Choose the weight of a reranker. Sentences taken out of passages are the queries that should retrieve them.

    The weight is stored in the index, and `encodery search query --rerank` uses it.
    """
    from encodery.cli._screen import screen
    from encodery.search.reranking import reranker_of
    from encodery.search.searcher import Searcher
    from encodery.search.tune_rerank import save_rerank_weight, tune_rerank

    console = screen()
    with Searcher.open(folder, model=model) as searcher, console.status("querying") as status:
        tuned = tune_rerank(
            searcher, reranker_of(rerank).open(), queries, lambda done, all_: status.update(f"query {done} of {all_}")
        )
        save_rerank_weight(searcher.index.path, rerank, tuned)
    curve = ", ".join(f"{weight} {mean:.3f}" for weight, mean in tuned.curve.items())
    console.print(f"{folder}: the weight of {rerank} is {tuned.weight:.2f}.", soft_wrap=True)
    console.print(f"  mean reciprocal rank of {tuned.queries} sentences, by weight: {curve}", soft_wrap=True)
