"""Rerankers: read the query with each of the first passages found and order those anew."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from encodery.base.parts import Part


class Scorer(Protocol):
    """What an opened reranker does; anything of this shape can stand for one."""

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """(N,) one finite number a text, higher where it answers the query better; only their order counts."""


class Reranker(Part):
    """Names a scorer and opens it."""

    @abc.abstractmethod
    def open(self) -> Scorer:
        """Ready to score. Raises `UserError` kinds for what cannot be loaded."""
