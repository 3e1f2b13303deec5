"""Training data made from training data: negatives mined, filtered by a judge, scored by a teacher.

The first stages of training a retriever: denoised hard negatives (arXiv:2010.08191), and a cross-encoder's scores from
which a bi-encoder then learns (arXiv:1908.05161, arXiv:2010.02666). The rows are written to a file that is trained on
like any other. Shapes: E examples, n texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import check_at_least
from encodery.embed.bm25_search import BM25Search
from encodery.embed.examples import ROLES, EmbeddingExamples
from encodery.embed.mining import build_pool, false_negative_rate, mine_negatives, mining_notes
from encodery.embed.negatives import Judge, NegativeMiner
from encodery.embed.negatives.hard import HardNegatives
from encodery.encoders.single_vector import SingleVectorEncoder

PAIRS_AT_ONCE = 1024  # Pairs scored together.
TeacherScores = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""A teacher: n anchors and n texts to n scores, higher is more relevant."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Settings of `encodery embed mine-negatives`.

    Args:
        miner: finds the negatives.
        num_negatives: per row; 0 for none.
        columns: role -> column of the data, where the guess is wrong.
        prompts: role of a text ("query", "document") -> name of the model's prompt; prompts that are called query and
            document are used by default.
        seed: of what is drawn at random.
    """

    miner: NegativeMiner = field(default_factory=HardNegatives)
    num_negatives: int = 4
    columns: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 0, "num_negatives")
        for role in self.prompts:
            if role not in ROLES:
                raise SettingsError(f"prompts: '{role}' is not a role of a text; the roles are {' and '.join(ROLES)}.")


@dataclass(frozen=True, eq=False)
class MinedRows:
    """`rows` with `anchor`, `positive` and `negatives`, and the teacher's `scores` or `score`; `notes` for the user."""

    rows: Iterator[dict[str, Any]]
    notes: list[str]


def mine_rows(
    data: EmbeddingExamples,
    settings: MiningSettings,
    encoder: SingleVectorEncoder | None = None,
    judge: Judge | None = None,
    teacher: TeacherScores | None = None,
) -> MinedRows:
    """Return the examples as rows, with mined negatives instead of the labelled ones.

    Args:
        data: pairs, or tuples of which the first two columns are read.
        settings: with the miner.
        encoder: gives the vectors, if the miner requires them.
        judge: a cross-encoder, if the miner requires one.
        teacher: scores the positive and the negatives of each row; rows with fewer than `num_negatives` negatives are
            left out. Without negatives a row has one `score` from 0 to 1.

    Raises `InputError` for data without pairs, `SettingsError` for what is not given.
    """
    if len(data.columns) < 2:
        raise InputError("The data has one column of texts; pairs of an anchor and a positive are needed.")
    anchors, positives = data.columns[:2]
    if not settings.num_negatives:
        if teacher is None:
            raise SettingsError("num_negatives = 0: without negatives, pairs are only scored; give a --judge.")
        return MinedRows(_scored_pairs(anchors, positives, teacher), [f"{len(data):,} pairs are scored"])
    requires = settings.miner.requires
    search = BM25Search(list(dict.fromkeys(positives))) if "search" in requires else None
    encoder = encoder if "vectors" in requires else None
    known = {} if encoder is None else encoder.prompts
    query, document = (settings.prompts.get(role, role if role in known else None) for role in ROLES)
    pool, queries = build_pool(anchors, positives, encoder, (query, document), judge, search)
    seed = derive_seed(settings.seed, "mine")
    mined = mine_negatives(settings.miner, pool, settings.num_negatives, seed)
    notes = [
        f"{len(data):,} examples, {len(pool.queries):,} different anchors, {len(pool.passages):,} texts as candidates",
        *mining_notes(mined, false_negative_rate(settings.miner, pool, settings.num_negatives, seed)),
    ]
    rows: list[dict[str, Any]] = []
    for anchor, positive, row in zip(anchors, positives, queries, strict=True):
        negatives = [pool.passages[int(index)] for index in mined.indices[row] if index >= 0]
        rows.append({"anchor": anchor, "positive": positive, "negatives": negatives})
    if teacher is None:
        return MinedRows(iter(rows), notes)
    complete = [row for row in rows if len(row["negatives"]) == settings.num_negatives]
    if len(complete) < len(rows):
        missing = len(rows) - len(complete)
        notes.append(f"{missing:,} examples with fewer than {settings.num_negatives} negatives are left out")
    return MinedRows(_scored_rows(complete, teacher), notes)


def _scored_pairs(anchors: Sequence[str], positives: Sequence[str], teacher: TeacherScores) -> Iterator[dict[str, Any]]:
    for start in range(0, len(anchors), PAIRS_AT_ONCE):
        left, right = anchors[start : start + PAIRS_AT_ONCE], positives[start : start + PAIRS_AT_ONCE]
        scores = 1 / (1 + np.exp(-np.asarray(teacher(left, right), np.float64)))
        for anchor, positive, score in zip(left, right, scores.tolist(), strict=True):
            yield {"anchor": anchor, "positive": positive, "score": round(score, 6)}


def _scored_rows(rows: Sequence[dict[str, Any]], teacher: TeacherScores) -> Iterator[dict[str, Any]]:
    """The rows with the teacher's scores of the positive and of each negative."""
    step = max(PAIRS_AT_ONCE // (len(rows[0]["negatives"]) + 1), 1) if rows else 1
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        texts = [[row["positive"], *row["negatives"]] for row in some]
        pairs = [(row["anchor"], text) for row, own in zip(some, texts, strict=True) for text in own]
        scores = teacher([anchor for anchor, _ in pairs], [text for _, text in pairs])
        by_row = np.asarray(scores, np.float64).reshape(len(some), -1)
        for row, values in zip(some, by_row, strict=True):
            yield {**row, "scores": [round(value, 6) for value in values.tolist()]}
