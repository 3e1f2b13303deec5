"""Training data for embeddings, of whatever shape: pairs, triplets, n-tuples, scored pairs, classes, raw sentences.

Read by `encodery.rows`; here the columns get their sides. An example is an anchor, what belongs to it (column 1) and
what does not (the columns after). Shapes: E examples, C columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.parts import name_of
from encodery.embed.losses import Loss, TargetKind
from encodery.embed.losses.contrastive import Contrastive
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.margin_mse import MarginMSE
from encodery.embed.losses.supcon import SupCon


@dataclass(frozen=True, eq=False)
class EmbeddingExamples:
    """`columns`: C lists of E texts. `target` as the losses want it (`losses.Target`): (E,) or (E, C - 1) numbers, (E,)
    class numbers, or None."""

    columns: tuple[list[str], ...]
    target_kind: TargetKind = "none"
    target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def raw(self) -> bool:
        """Whether these are bare sentences."""
        return len(self.columns) == 1 and self.target_kind == "none"

    def take(self, numbers: np.ndarray) -> EmbeddingExamples:
        """The examples of these numbers."""
        columns = tuple([column[int(n)] for n in numbers] for column in self.columns)
        return replace(self, columns=columns, target=None if self.target is None else self.target[numbers])

    @property
    def fingerprint(self) -> str:
        """Differs when any text or target does."""
        digest = hashlib.sha256(self.target_kind.encode())
        for column in self.columns:
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass"))
                digest.update(b"\0")
        if self.target is not None:
            digest.update(np.ascontiguousarray(self.target).data)
        return digest.hexdigest()[:32]


def default_loss(data: EmbeddingExamples) -> Loss:
    """The loss for data of this shape: InfoNCE for pairs, tuples and raw sentences, CoSENT for scored pairs, the
    contrastive one for pairs labelled 0 and 1, margin-MSE for a teacher's scores, supervised contrast for classes."""
    if data.target_kind == "scores":
        return MarginMSE()
    if data.target_kind == "label":
        return SupCon()
    if data.target_kind == "score":
        assert data.target is not None
        return Contrastive() if set(np.unique(data.target)) <= {0.0, 1.0} else CoSENT()
    return InfoNCE()


def prepare_for_loss(data: EmbeddingExamples, loss: Loss) -> EmbeddingExamples:
    """The examples as the loss wants them: a raw sentence stands beside itself where two texts are needed, scores that
    are not asked for are put away. Raises `SettingsError` where the data lacks what the loss needs."""
    name = name_of(loss)
    if loss.target_kind == "none" and data.target_kind != "none":
        data = _without_target(data, name)
    if loss.target_kind != data.target_kind:
        raise SettingsError(
            f"loss = '{name}': learns from {TARGET_NAMES[loss.target_kind]}, the data has {TARGET_NAMES[data.target_kind]}. "
            f"Name the columns with columns.score, columns.scores or columns.label, or choose another loss."
        )
    least, most = loss.column_range
    if len(data.columns) == 1 < least <= 2:
        data = replace(data, columns=data.columns * 2)
    if len(data.columns) < least:
        lacking = "a negative" if least == 3 else "a partner"
        raise SettingsError(f"loss = '{name}': needs {least} texts an example, {lacking} is missing from the data.")
    if most is not None and len(data.columns) > most:
        data = replace(data, columns=data.columns[:most])
    return data


def as_single_texts(data: EmbeddingExamples) -> EmbeddingExamples:
    """Every text by itself, each once, in the order of the columns."""
    return EmbeddingExamples((list(dict.fromkeys(text for column in data.columns for text in column)),))


TARGET_NAMES: Mapping[TargetKind, str] = {
    "none": "texts alone",
    "score": "a score for each pair",
    "scores": "a teacher's scores for each text after the first",
    "label": "a class for each text",
}


def _without_target(data: EmbeddingExamples, loss: str) -> EmbeddingExamples:
    """Pairs without their score: only those that say yes (above the middle) are pairs that belong together."""
    if data.target_kind == "score":
        assert data.target is not None
        middle = (float(data.target.min()) + float(data.target.max())) / 2
        kept = np.flatnonzero(data.target > middle)
        if not len(kept):
            raise EmptyInput(f"loss = '{loss}': learns from pairs that belong together, and all scores are equal.")
        data = data.take(kept)
    return EmbeddingExamples(data.columns)


def rescale_scores(target: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scores brought from low … high to 0 … 1."""
    return ((target - low) / max(high - low, 1e-12)).astype(np.float32)


def negative_columns(
    rows: Sequence[Sequence[str]], num_negatives: int | None, positives: Sequence[str]
) -> tuple[list[str], ...]:
    """Columns of wrong answers from as many as each row has: `take` of them, or as many as every row has (one at
    least). Where a row has fewer, partners of other rows fill up, in turn, never its own."""
    count = max(min(map(len, rows), default=0), 1) if num_negatives is None else num_negatives
    columns: list[list[str]] = [[] for _ in range(count)]
    spare = list(dict.fromkeys(positives))
    turn = 0
    for row, own in zip(rows, positives, strict=True):
        for place in range(count):
            if place < len(row):
                columns[place].append(row[place])
                continue
            turn += 1
            at = (turn * 7919) % len(spare)
            columns[place].append(spare[at] if spare[at] != own else spare[(at + 1) % len(spare)])
    return tuple(columns)
