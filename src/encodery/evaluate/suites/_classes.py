"""Texts with one label each. Shapes: N examples."""

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
        """Return the examples with the given numbers."""
        return LabelledTexts([self.texts[int(number)] for number in numbers], self.labels[numbers])


def labelled_texts(rows: Table, columns: Mapping[str, str]) -> LabelledTexts:
    """Return the texts and labels of a table; columns that are not given are assigned by name."""
    values = read_columns(rows, ("text", "label"), columns)
    return LabelledTexts(values["text"], np.array([str(value) for value in values["label"]]))
