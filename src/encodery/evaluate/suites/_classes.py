"""Texts with one label each, by split. Shapes: N rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encodery.evaluate.suites._rows import columns
from encodery.rows.table import Table


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


def labelled(rows: Table, given: Mapping[str, str]) -> Labelled:
    """Rows as texts and labels; columns are guessed where not given."""
    found = columns(rows, ("text", "label"), given)
    return Labelled(found["text"], np.array([str(value) for value in found["label"]]))
