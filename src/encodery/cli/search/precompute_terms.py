"""encodery search precompute-terms: store the term weights of an index's passages, to rerank without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import OutFolder
from encodery.cli.search._shared import Index


def command(
    folder: Index,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="A sparse embedding model, trained with the recipe tilde_v2.")
    ],
    out: OutFolder,
) -> None:
    """Store the term weights of all passages; `encodery search query --rerank OUT` looks them up (TILDEv2).

    Passages that are added to the index later are encoded by the same model when they are first reranked.
    """
    from encodery.cli._screen import screen
    from encodery.search.index import SearchIndex
    from encodery.search.precomputed_terms import precompute_terms

    console = screen()
    done = 0
    with SearchIndex(folder) as opened, console.status("Encoding passages …") as status:
        total = opened.store.count()

        def advance(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{done:,} of {total:,} passages")

        texts = (point.text for points in opened.store.scan() for point in points)
        written = precompute_terms(texts, model, out, advance)
    metrics, size = written.manifest.metrics, sum(entry["bytes"] for entry in written.manifest.files.values())
    console.print(
        f"{out}: {metrics['passages']:,} distinct passages, {metrics['terms'] / metrics['passages']:.1f} terms per "
        f"passage, "
        f"{size / 1e6:,.1f} MB. Rerank with it: encodery search query {folder} QUERY --rerank {out}",
        soft_wrap=True,
    )
