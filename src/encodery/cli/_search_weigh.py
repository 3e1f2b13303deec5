"""encodery search weigh: the weights of an index's passages, stored once, to rerank without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def weigh(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A model of sparse vectors (recipe tilde_v2).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of weights to write.")],
) -> None:
    """Store the term weights of all passages; `query --rerank OUT` then only looks them up (TILDEv2).

    Passages that are added to the index later are encoded when they are met, by the same model.
    """
    from encodery.cli._screen import screen
    from encodery.search.opened import Opened
    from encodery.search.weighed import weigh as weigh_texts

    console = screen()
    done = 0
    with Opened(folder) as opened, console.status("Weighing passages …") as status:
        total = opened.store.count()

        def told(count: int) -> None:
            nonlocal done
            done += count
            status.update(f"{done:,} of {total:,} passages")

        texts = (point.text for points in opened.store.all() for point in points)
        made = weigh_texts(texts, model, out, told)
    figures, size = made.manifest.figures, sum(entry["bytes"] for entry in made.manifest.files.values())
    console.print(
        f"{out}: {figures['passages']:,} different passages, {figures['words'] / figures['passages']:.1f} words each, "
        f"{size / 1e6:,.1f} MB. Rerank with it: encodery search query {folder} --rerank {out} …",
        soft_wrap=True,
    )
