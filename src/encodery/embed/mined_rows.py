"""Training data out of training data: wrong answers looked for, looked through by a judge, scored by a teacher.

The first half of what retrievers are taught in stages: denoised hard negatives (arXiv:2010.08191), and scores of a
cross-encoder, from which a model that reads each text by itself then learns (arXiv:1908.05161, arXiv:2010.02666). The
rows go into a file, which is looked at, kept, and trained on as any other. Shapes: E examples, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import derive_seed
from encodery.embed.bm25_search import BM25Search
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.mining import build_pool, false_negative_rate, mine_negatives
from encodery.embed.negatives import Judge, NegativeMiner
from encodery.embed.negatives.hard import HardNegatives
from encodery.encoders.dense import DenseEncoder

PAIRS_AT_ONCE = 1024  # Pairs scored together.
TeacherScores = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""A teacher: n anchors and n texts to n scores, higher is more relevant."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """`mine`: who looks for wrong answers, `count` a row (0: none are wanted). `columns`: role -> column of the data,
    where a guess is wrong. `prompts`: side ("query", "document") -> name of the model's prompt for its texts; prompts
    of these names are used unasked."""

    miner: NegativeMiner = field(default_factory=HardNegatives)
    num_negatives: int = 4
    columns: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_negatives < 0:
            raise SettingsError(f"count = {self.num_negatives}: must not be negative.")
        for side in self.prompts:
            if side not in ("query", "document"):
                raise SettingsError(f"prompts: '{side}' is no side of an example; there are query and document.")


@dataclass(frozen=True, eq=False)
class MinedRows:
    """`rows` with `anchor`, `positive`, `negatives` and, of a teacher, `scores` or `score`; `notes` for the user."""

    rows: Iterator[dict[str, Any]]
    notes: list[str]


def mine_rows(
    data: EmbeddingExamples,
    settings: MiningSettings,
    embedder: DenseEncoder | None = None,
    judge: Judge | None = None,
    teacher: TeacherScores | None = None,
) -> MinedRows:
    """The examples of `data` as rows, with wrong answers in place of those they had.

    `embedder` and `judge` are needed where `settings.mine` wants them. With `scores` each row has the teacher's scores
    of its positive and its negatives, and rows with fewer than `count` negatives are left out; without negatives a row
    has one `score` from 0 to 1. Raises `InputError` for data without pairs, `SettingsError` for what is not given.
    """
    if len(data.columns) < 2:
        raise InputError("There is one column of texts; pairs of an anchor and what belongs to it are needed.")
    anchors, partners = data.columns[:2]
    if not settings.num_negatives:
        if teacher is None:
            raise SettingsError("count = 0: without wrong answers there is nothing to do but to score; give a judge.")
        return MinedRows(_scored_pairs(anchors, partners, teacher), [f"{len(data):,} pairs are scored"])
    wants = settings.miner.requires
    search = BM25Search(list(dict.fromkeys(partners))) if "search" in wants else None
    reader = embedder if "vectors" in wants else None
    known = {} if reader is None else reader.settings.prompts
    query, document = (settings.prompts.get(side, side if side in known else None) for side in ("query", "document"))
    hay, queries = build_pool(anchors, partners, reader, (query, document), judge, search)
    seed = derive_seed(settings.seed, "mine")
    found = mine_negatives(settings.miner, hay, settings.num_negatives, seed)
    notes = [
        f"{len(data):,} examples, {len(hay.queries):,} different anchors, {len(hay.passages):,} texts to look among",
        f"{(found.numbers >= 0).mean():.0%} of the wrong answers found; {found.filtered_fraction:.1%} of the candidates were "
        "too likely right and left out",
    ]
    rate = false_negative_rate(settings.miner, hay, settings.num_negatives, seed)
    if rate is not None:
        notes.append(f"a right answer that nobody labelled would be mined as wrong with a chance of {rate:.1%}")
    rows: list[dict[str, Any]] = []
    for anchor, partner, number in zip(anchors, partners, queries, strict=True):
        wrong = [hay.passages[int(n)] for n in found.numbers[number] if n >= 0]
        rows.append({"anchor": anchor, "positive": partner, "negatives": wrong})
    if teacher is None:
        return MinedRows(iter(rows), notes)
    whole = [row for row in rows if len(row["negatives"]) == settings.num_negatives]
    if len(whole) < len(rows):
        notes.append(
            f"{len(rows) - len(whole):,} examples with fewer than {settings.num_negatives} wrong answers left out"
        )
    return MinedRows(_scored(whole, teacher), notes)


def _scored_pairs(anchors: Sequence[str], partners: Sequence[str], scores: TeacherScores) -> Iterator[dict[str, Any]]:
    for start in range(0, len(anchors), PAIRS_AT_ONCE):
        some, others = anchors[start : start + PAIRS_AT_ONCE], partners[start : start + PAIRS_AT_ONCE]
        found = 1 / (1 + np.exp(-np.asarray(scores(some, others), np.float64)))
        for anchor, partner, score in zip(some, others, found.tolist(), strict=True):
            yield {"anchor": anchor, "positive": partner, "score": round(score, 6)}


def _scored(rows: Sequence[dict[str, Any]], scores: TeacherScores) -> Iterator[dict[str, Any]]:
    """The rows with the teacher's scores of the positive and of each negative."""
    step = max(PAIRS_AT_ONCE // (len(rows[0]["negatives"]) + 1), 1) if rows else 1
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        texts = [[row["positive"], *row["negatives"]] for row in some]
        flat = [(row["anchor"], text) for row, own in zip(some, texts, strict=True) for text in own]
        found = scores([anchor for anchor, _ in flat], [text for _, text in flat])
        parts = np.asarray(found, np.float64).reshape(len(some), -1)
        for row, part in zip(some, parts, strict=True):
            yield {**row, "scores": [round(value, 6) for value in part.tolist()]}
