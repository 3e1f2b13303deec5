"""Texts with one label each, by split. Shapes: N rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.evaluate.suites._rows import Row, cells

TEXT = ("text", "sentence", "content", "title")
LABEL = ("label", "class", "category", "topic", "intent", "target")


@dataclass(frozen=True, eq=False)
class Labelled:
    """N texts and their labels (N,) as text."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: np.ndarray) -> Labelled:
        """The rows of these numbers."""
        return Labelled([self.texts[int(number)] for number in numbers], self.labels[numbers])


def labelled(rows: Sequence[Row], text: str, label: str) -> Labelled:
    """Rows as texts and labels; columns are guessed where not given."""
    texts = cells(rows, "the text", text, TEXT, str)
    labels = cells(rows, "the label", label, LABEL, (str, int))
    return Labelled(texts, np.array([str(value) for value in labels]))
