"""Texts with one label each, by split. Shapes: N rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encodery.evaluate.suites._rows import read_columns
from encodery.rows.table import Table


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """N texts and their labels (N,) as text."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: np.ndarray) -> LabelledTexts:
        """The rows of these numbers."""
        return LabelledTexts([self.texts[int(number)] for number in numbers], self.labels[numbers])


def labelled_texts(rows: Table, given: Mapping[str, str]) -> LabelledTexts:
    """Rows as texts and labels; columns are guessed where not given."""
    found = read_columns(rows, ("text", "label"), given)
    return LabelledTexts(found["text"], np.array([str(value) for value in found["label"]]))
