"""Training examples of embeddings, of any shape: pairs, triplets, n-tuples, scored pairs, classes, raw sentences.

An example is an anchor, a positive (column 1) and negatives (the columns after it). Shapes: E examples, C columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.parts import name_of
from encodery.embed.losses import Loss, TargetKind

ROLES = ("query", "document")
"""The roles of texts, by which a prompt is chosen."""
TARGET_NAMES: Mapping[TargetKind, str] = {
    "none": "texts alone",
    "score": "a score for each pair",
    "scores": "a teacher's scores for each text after the first",
    "label": "a class for each text",
}
FILL_STEP = 7919  # A prime; texts that fill up for missing negatives are this far apart among the positives.


@dataclass(frozen=True, eq=False)
class EmbeddingExamples:
    """E examples of C texts.

    Args:
        columns: C lists of E texts.
        target_kind: what the examples are labelled with.
        target: (E,) scores, (E, C - 1) scores, (E,) class numbers, or None, by `target_kind`.
    """

    columns: tuple[list[str], ...]
    target_kind: TargetKind = "none"
    target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def raw(self) -> bool:
        """Whether these are sentences without partner and label."""
        return len(self.columns) == 1 and self.target_kind == "none"

    def take(self, indices: np.ndarray) -> EmbeddingExamples:
        """Return the examples at these indices."""
        columns = tuple([column[int(i)] for i in indices] for column in self.columns)
        return replace(self, columns=columns, target=None if self.target is None else self.target[indices])

    @property
    def fingerprint(self) -> str:
        """32 hex digits that differ if any text or label does."""
        digest = hashlib.sha256(self.target_kind.encode())
        for column in self.columns:
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass"))
                digest.update(b"\0")
        if self.target is not None:
            digest.update(np.ascontiguousarray(self.target).data)
        return digest.hexdigest()[:32]


def column_roles(columns: int) -> list[str]:
    """Return the role of each column of an example: a query, then documents."""
    query, document = ROLES
    return [query, *[document] * (columns - 1)]


def prepare_for_loss(data: EmbeddingExamples, loss: Loss) -> EmbeddingExamples:
    """Return the examples as the loss reads them.

    A raw sentence becomes a pair with itself if two texts are needed; labels that the loss does not read are removed.
    Raises `SettingsError` if the data lacks what the loss needs.
    """
    name = name_of(loss)
    if loss.target_kind == "none" and data.target_kind != "none":
        data = _without_target(data, name)
    if loss.target_kind != data.target_kind:
        raise SettingsError(
            f"loss = '{name}': needs {TARGET_NAMES[loss.target_kind]}, the data has {TARGET_NAMES[data.target_kind]}. "
            f"Name the columns with columns.score, columns.scores or columns.label, or choose another loss."
        )
    minimum, maximum = loss.column_range
    if len(data.columns) == 1 < minimum <= 2:
        data = replace(data, columns=data.columns * 2)
    if len(data.columns) < minimum:
        missing = "a negative" if minimum == 3 else "a positive"
        raise SettingsError(f"loss = '{name}': needs {minimum} texts per example; {missing} is missing from the data.")
    if maximum is not None and len(data.columns) > maximum:
        data = replace(data, columns=data.columns[:maximum])
    return data


def as_single_texts(data: EmbeddingExamples) -> EmbeddingExamples:
    """Return every text as an example, each once, in the order of the columns."""
    return EmbeddingExamples((list(dict.fromkeys(text for column in data.columns for text in column)),))


def rescale_scores(scores: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return scores rescaled from low … high to 0 … 1."""
    return ((scores - low) / max(high - low, 1e-12)).astype(np.float32)


def negative_columns(
    negatives: Sequence[Sequence[str]], num_negatives: int | None, positives: Sequence[str]
) -> tuple[list[str], ...]:
    """Return columns of negatives from the lists of negatives of E rows.

    Args:
        negatives: those of each row.
        num_negatives: columns to make; None for as many as every row has, at least one.
        positives: the positive of each row. Where a row has too few negatives, positives of other rows fill up.
    """
    count = max(min(map(len, negatives), default=0), 1) if num_negatives is None else num_negatives
    columns: list[list[str]] = [[] for _ in range(count)]
    candidates = list(dict.fromkeys(positives))
    filled = 0
    for row, positive in zip(negatives, positives, strict=True):
        for place in range(count):
            if place < len(row):
                columns[place].append(row[place])
                continue
            filled += 1
            at = (filled * FILL_STEP) % len(candidates)
            columns[place].append(
                candidates[at] if candidates[at] != positive else candidates[(at + 1) % len(candidates)]
            )
    return tuple(columns)


def _without_target(data: EmbeddingExamples, loss: str) -> EmbeddingExamples:
    """Examples without labels; of scored pairs only those above the middle score are positives."""
    if data.target_kind == "score":
        assert data.target is not None
        middle = (float(data.target.min()) + float(data.target.max())) / 2
        kept = np.flatnonzero(data.target > middle)
        if not len(kept):
            raise EmptyInput(f"loss = '{loss}': needs pairs with a high score, and all scores are equal.")
        data = data.take(kept)
    return EmbeddingExamples(data.columns)
