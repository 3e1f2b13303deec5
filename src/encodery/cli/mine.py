"""encodery mine: wrong answers for training pairs, filtered and scored by a cross-encoder where one is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from encodery.embed.teaching import Scores
    from encodery.finetune.predict import Predictor


def command(
    data: Annotated[Path, typer.Argument(help="Pairs: a file of rows, a folder of splits, or the BEIR layout.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="[path=value ...]", help="Settings.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write.")] = ...,  # type: ignore[assignment]
    model: Annotated[str | None, typer.Option("--model", "-m", help="The embedding model that looks for them.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model of `encodery finetune rank` that looks through what was found.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Write the judge's scores, to be learned from.")] = False,
    split: Annotated[str, typer.Option(help="The split of the data.")] = "train",
) -> None:
    """Write OUT: rows with `anchor`, `positive` and `negatives`, for `encodery finetune embed OUT`.

    Settings: count=4 wrong answers a row; mine.is=hard (by the model's vectors, the default), bm25 or random, with
    their own, such as mine.margin=0.1. With --judge, what it finds nearly as good as the right answer is left out
    (mine.is=reranked around the other). --scores also writes what it says of every text, for --recipe distil; with
    count=0 pairs are scored as they are, for loss.is=cosine_mse.
    """
    from encodery.base.errors import InputError, SettingsError
    from encodery.base.settings import overrides, with_overrides
    from encodery.cli._screen import screen
    from encodery.embed.embedder import Embedder
    from encodery.embed.negatives.reranked import Reranked
    from encodery.embed.reading import opened
    from encodery.embed.teaching import Teaching, taught
    from encodery.model.load import load_model

    if out.suffix != ".jsonl":
        raise InputError(f"{out}: the rows are written to .jsonl, not '{out.suffix}'.")
    if scores and judge is None:
        raise SettingsError("--scores: are those of a cross-encoder; name it with --judge.")
    chosen = with_overrides(Teaching, {}, overrides(settings or []))
    if judge is not None and "judge" not in chosen.mine.wants:
        chosen = replace(chosen, mine=Reranked(miner=chosen.mine))
    splits, notes = opened(data, chosen.columns, 0)
    if split not in splits:
        raise InputError(f"{data}: has no split '{split}'; there are {', '.join(splits) or 'none'}.")
    embedder = None
    if chosen.count and "vectors" in chosen.mine.wants:
        if model is None:
            raise SettingsError("mine: looks with a model's vectors; name it with --model, or choose mine.is=bm25.")
        embedder = Embedder.of(load_model(model))
    predictor = None if judge is None else _judge(judge)
    teacher = _teacher(predictor) if predictor is not None and (scores or not chosen.count) else None
    made = taught(splits[split], chosen, embedder, None if predictor is None else predictor.score, teacher)
    console = screen()
    for note in [*notes, *made.notes]:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"{out}: {_write(made.rows, out):,} rows", markup=False, soft_wrap=True)
    console.print(f"  encodery finetune embed {out} --model MODEL --out RUN", markup=False, soft_wrap=True)


def _judge(path: str) -> Predictor:
    """Raises `InputError` for a model that is none."""
    from encodery.base.errors import InputError
    from encodery.base.parts import name_of
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    found = Predictor.of(load_model(path))
    if name_of(found.task) != "rank":
        raise InputError(f"{path}: is a model of the task '{name_of(found.task)}'; one of 'rank' is needed to judge.")
    return found


def _teacher(predictor: Predictor) -> Scores:
    def scores(anchors: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        answers = predictor.predict({"query": list(anchors), "text": list(texts)}).answers
        return np.array([answer["logit"] for answer in answers], np.float64)

    return scores


def _write(rows: Iterable[dict[str, Any]], out: Path) -> int:
    """JSON lines, in a file that appears whole."""
    from encodery.base.artifact import replacing

    count = 0
    with replacing(out) as file:
        for row in rows:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
            count += 1
    return count
