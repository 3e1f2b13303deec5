"""encodery embed mine-negatives: find hard negatives for training pairs, filtered and scored by a cross-encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encodery.cli._options import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np

    from encodery.embed.mined_rows import TeacherScores
    from encodery.finetune.predict import Predictor


def command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Pairs: a file of examples, a folder of splits, or a BEIR folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl file to write.")],
    settings: Settings = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The embedding model whose embeddings are searched.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="A cross-encoder (`encodery finetune rank`) that removes false negatives."),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also write the scores of the cross-encoder, for distillation.")
    ] = False,
    split: Annotated[str, typer.Option(help="The split of the data that is mined.")] = "train",
) -> None:
    """Write examples with `anchor`, `positive` and `negatives`, for `encodery embed train OUT`.

    Settings: num_negatives=4 per example; miner.is=hard (the nearest embeddings, the default), bm25 or random, each
    with its own settings, such as miner.margin=0.1. With --judge, a negative that scores nearly as high as the positive
    is removed (miner.is=reranked wraps the miner). --scores also writes the score of every text, for --recipe distil;
    with num_negatives=0 the pairs are scored as they are, for loss.is=cosine_mse.
    """
    from encodery.base.errors import InputError, SettingsError
    from encodery.base.settings import decode_with_overrides, parse_overrides
    from encodery.cli._screen import screen
    from encodery.embed.mined_rows import MiningSettings, mine_rows
    from encodery.embed.negatives.reranked import RerankedNegatives
    from encodery.embed.reading import read_splits
    from encodery.encoders.loading import load_dense
    from encodery.model.load import load_model

    if out.suffix != ".jsonl":
        raise InputError(f"{out}: examples are written to .jsonl, not '{out.suffix}'.")
    if scores and judge is None:
        raise SettingsError("--scores: needs a cross-encoder; name it with --judge.")
    chosen = decode_with_overrides(MiningSettings, {}, parse_overrides(settings or []))
    if judge is not None and "judge" not in chosen.miner.requires:
        chosen = replace(chosen, miner=RerankedNegatives(miner=chosen.miner))
    splits, notes = read_splits(data, chosen.columns, 0)
    if split not in splits:
        raise InputError(f"{data}: has no split '{split}'; it has {', '.join(splits) or 'none'}.")
    embedder = None
    if chosen.num_negatives and "vectors" in chosen.miner.requires:
        if model is None:
            raise SettingsError(
                "miner: this miner searches embeddings; name a model with --model, or choose miner.is=bm25."
            )
        embedder = load_dense(load_model(model))
    predictor = None if judge is None else _judge(judge)
    teacher = _teacher(predictor) if predictor is not None and (scores or not chosen.num_negatives) else None
    made = mine_rows(splits[split], chosen, embedder, None if predictor is None else predictor.score, teacher)
    console = screen()
    for note in [*notes, *made.notes]:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"{out}: {_write(made.rows, out):,} examples", markup=False, soft_wrap=True)
    console.print(f"  encodery embed train {out} --model MODEL --out RUN", markup=False, soft_wrap=True)


def _judge(path: str) -> Predictor:
    """Load the cross-encoder. Raises `InputError` for a model of another task."""
    from encodery.base.errors import InputError
    from encodery.base.parts import name_of
    from encodery.finetune.predict import Predictor
    from encodery.model.load import load_model

    predictor = Predictor.from_model(load_model(path))
    if name_of(predictor.task) != "rank":
        raise InputError(f"{path}: is a model for the task '{name_of(predictor.task)}'; --judge needs one for 'rank'.")
    return predictor


def _teacher(predictor: Predictor) -> TeacherScores:
    def scores(anchors: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        answers = predictor.predict({"query": list(anchors), "text": list(texts)}).answers
        return np.array([answer["logit"] for answer in answers], np.float64)

    return scores


def _write(rows: Iterable[dict[str, Any]], out: Path) -> int:
    """Write JSON lines to a file that appears only when it is complete, and return their number."""
    from encodery.base.artifact import atomic_open

    count = 0
    with atomic_open(out) as file:
        for row in rows:
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
            count += 1
    return count
