"""Rerankers: score the first passages of a search together with the query, to rank them again."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from encodery.base.parts import Part


class Scorer(Protocol):
    """An open reranker; any object with this method can be used as one."""

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Return one finite score per text, (N,), higher if the text answers the query better. Only their order
        matters."""


class Reranker(Part):
    """Names a scorer and opens it."""

    @abc.abstractmethod
    def open(self) -> Scorer:
        """Return the scorer, ready for use. Raises a `UserError` if it cannot be loaded."""
