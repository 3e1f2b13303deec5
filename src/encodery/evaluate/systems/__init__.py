"""Systems that can be compared: encodery's models, other models, servers, and baselines without a model.

A system is opened once, encodes or ranks for the suites, and counts what it did, so that speed, padding and truncation
are reported with quality. Shapes: N texts, K dimensions.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from encodery.base.errors import InputError
from encodery.base.parts import Part
from encodery.evaluate.counters import Counters

if TYPE_CHECKING:
    from encodery.finetune.predict import Predictor
    from encodery.model.load import LoadedModel

Role = Literal["query", "document"]
Vectors = Any
"""(N, K) float32: an array, or a sparse matrix in CSR format."""
Run = dict[str, dict[str, float]]
"""Query -> document -> score, by id."""


class UnsupportedEvaluation(InputError):
    """A system does not support an evaluation; its row in a table is empty."""


class OpenSystem(abc.ABC):
    """A loaded system: its name in tables, counters of what it has done, and notes for readers of the table."""

    task, training_data = "", ""  # The task of its head and the data it was trained on.
    symmetric = True  # Whether two texts can be compared; otherwise only queries with documents.
    trains_classifier = False  # Whether a linear classifier on its vectors is a baseline, as with TF-IDF.

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters = Counters()
        self.notes: list[str] = []

    def fit(self, texts: Sequence[str]) -> None:  # noqa: B027
        """Fit the system to the documents or training texts of a suite (document frequencies)."""

    @abc.abstractmethod
    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        """Return vectors (N, K) of texts; their inner product (at unit length if `symmetric`) is the similarity."""

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run | None:
        """Return the first `depth` documents of queries, by id; None if vectors are to be compared instead."""
        return None

    def close(self) -> None:  # noqa: B027
        """Release files and locks."""

    def loaded(self) -> LoadedModel:
        """Return its masked language model. Raises `UnsupportedEvaluation` if it has none."""
        raise UnsupportedEvaluation(f"{self.name}: is not a masked language model that can predict tokens.")

    def predictor(self) -> Predictor:
        """Return its fine-tuned model. Raises `UnsupportedEvaluation` if it has none."""
        raise UnsupportedEvaluation(f"{self.name}: has no task head; a run of `encodery finetune TASK DATA` has one.")


class System(Part):
    """The description of a system."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """Its name in tables."""

    @abc.abstractmethod
    def open(self) -> OpenSystem:
        """Load the system. Raises `MissingExtra`, `ArtifactError` and `InputError`."""
