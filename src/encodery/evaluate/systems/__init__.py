"""Systems: what can be measured side by side: our models, others' models, a server, and word counts without a model.

A system is opened once, does what suites ask for, and counts what it did, so that speed, padding and truncation stand
beside quality. Shapes: N texts, K width of a vector.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from encodery.base.errors import InputError
from encodery.base.parts import Part

if TYPE_CHECKING:
    from encodery.finetune.predict import Predictor
    from encodery.model.load import LoadedModel

Role = Literal["query", "document"]
Vectors = Any
"""(N, K) float32: an array, or a sparse matrix in rows where most entries are zero."""
Run = dict[str, dict[str, float]]
"""Query -> document -> score, by id."""


class UnsupportedEvaluation(InputError):
    """A system was asked for what it cannot do; in a table its cell stays empty."""


@dataclass
class Counters:
    """What a system did so far. `seconds` of encoding; `tokens` it read, `padding` it computed beside them, `dropped`
    tokens that were cut off. None where a system does not tell."""

    texts: int = 0
    seconds: float = 0.0
    tokens: int | None = 0
    padding: int | None = 0
    dropped: int | None = 0

    def add(self, texts: int, tokens: int | None, padding: int | None, dropped: int | None) -> None:
        """Count one call."""
        self.texts += texts
        self.tokens = _sum(self.tokens, tokens)
        self.padding = _sum(self.padding, padding)
        self.dropped = _sum(self.dropped, dropped)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Time of encoding."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun

    def since(self, before: Counters) -> Counters:
        """What was added since `before`, a copy made then."""
        return Counters(
            self.texts - before.texts,
            self.seconds - before.seconds,
            _sum(self.tokens, _negative(before.tokens)),
            _sum(self.padding, _negative(before.padding)),
            _sum(self.dropped, _negative(before.dropped)),
        )

    def copy(self) -> Counters:
        """The counts as they are now."""
        return replace(self)


class OpenSystem(abc.ABC):
    """A system in use. `name` tells it from the others in a table, `counters` what it did, `notes` what a reader of
    the table has to know of that. `task`: the one whose head it has, `data`: what that learnt from; empty for none."""

    name: str
    task = ""
    training_data = ""
    symmetric = True
    """Whether two texts can be compared with each other; else only queries with documents."""
    trains_classifier = False
    """Whether a linear classifier on its vectors is the usual baseline of classes, rather than a probe of a model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters = Counters()
        self.notes: list[str] = []

    def fit(self, texts: Sequence[str]) -> None:  # noqa: B027
        """Learn from the suite's documents or training texts what the system has to (frequencies of words)."""

    @abc.abstractmethod
    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        """Vectors (N, K) of texts, whose inner product (with unit length where `symmetric`) says how alike they are."""

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run | None:
        """The first `depth` documents for queries, both by id, where the system finds them by itself; None where
        vectors are to be compared."""
        return None

    def close(self) -> None:  # noqa: B027
        """Let go of files that only one can hold."""

    def loaded(self) -> LoadedModel:
        """The masked-language model behind it. Raises `Incapable` where there is none that can be asked."""
        raise UnsupportedEvaluation(f"{self.name}: is no masked-language model that can be asked for its guesses.")

    def predictor(self) -> Predictor:
        """The fine-tuned model behind it, with its task. Raises `Incapable` where there is none."""
        raise UnsupportedEvaluation(
            f"{self.name}: has no head of a task; a run of `encodery finetune TASK DATA` has one."
        )


class System(Part):
    """Names what is to be measured."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The name in tables."""

    @abc.abstractmethod
    def open(self) -> OpenSystem:
        """The system, loaded. Raises `MissingExtra` where a package is missing, `ArtifactError`, `InputError`."""


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _negative(value: int | None) -> int | None:
    return None if value is None else -value


def unit_length(vectors: Vectors) -> Vectors:
    """The rows (N, K) at unit length; rows of zeros stay. Sparse stays sparse."""
    if isinstance(vectors, np.ndarray):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    from encodery.base.extras import require

    return require("sklearn.preprocessing", "evaluate").normalize(vectors)
