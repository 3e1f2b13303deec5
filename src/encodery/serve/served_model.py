"""What the engine runs: a served model answers one operation (embed, predict, fill, search, ...) of one model.

A request is tokenised to units, each a sequence with its number of tokens; the units of any requests can be in one
batch; the outputs of a request's units are finished to its result. So no stage needs to know other requests.
Shapes: N units of a request, B units of a batch.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encodery.serve.api_error import ApiError

CHARACTERS_PER_TOKEN = 4  # Assumed until the tokens are counted.


@dataclass(frozen=True)
class InferenceRequest:
    """`model` and `operation` name the endpoint; `inputs` and `options` are JSON, as the served model reads them."""

    model: str
    operation: str
    inputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The name under which the engine has the served model."""
        return f"{self.model}/{self.operation}"

    def estimate_tokens(self, max_length: int = 1 << 30) -> int:
        """About the number of tokens, if a text counts `max_length` at most; known before anything is tokenised."""
        return _estimate(self.inputs, max_length)


@dataclass(frozen=True, eq=False)
class TokenizedRequest:
    """`units` (N) and the `tokens` (N,) of each; `context`: passed on to `finish`."""

    units: Sequence[Any]
    tokens: Sequence[int]
    context: Any = None


@dataclass(eq=False)
class InferenceResult:
    """`body`: JSON; `arrays` by name; `tokens` and `dropped` of each input, in their order; `seconds` by stage."""

    body: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: Sequence[int] = ()
    dropped: Sequence[int] = ()
    seconds: dict[str, float] = field(default_factory=dict)


class BatchGroup(abc.ABC):
    """Runs the units of several served models in one pass."""

    @abc.abstractmethod
    def run(self, parts: Sequence[tuple[ServedModel, Sequence[Any]]]) -> Sequence[Sequence[Any]]:
        """The output of each unit of each model."""


class ServedModel(abc.ABC):
    """`max_units`: of a batch; `exclusive`: no two batches may run at the same time; `batch_group`: runs its units
    together with those of other models; None if its batches hold only its own."""

    max_units: int = 1 << 20
    exclusive: bool = False
    batch_group: BatchGroup | None = None

    @abc.abstractmethod
    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """First stage. Raises `InputError` or `ApiError` for a request that cannot be used."""

    @abc.abstractmethod
    def run(self, units: Sequence[Any]) -> Sequence[Any]:
        """Second stage: the output of each unit (B), which does not depend on the other units, beyond rounding."""

    @abc.abstractmethod
    def finish(self, context: Any, outputs: Sequence[Any]) -> InferenceResult:
        """Third stage: the result of a request from the outputs of its units."""

    def info(self) -> dict[str, Any]:
        """What `/info` reports of it."""
        return {}

    def single_threaded(self) -> ServedModel:
        """The same on one thread, to run beside other batches; itself if it runs on the caller's threads."""
        return self


def check_finite(*arrays: np.ndarray) -> None:
    """Raises `ApiError` for a number that is not finite: JSON would have null in its place."""
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ApiError(500, "non_finite_output", "The model gave a number that is not finite for this input.")


def _estimate(value: Any, max_length: int) -> int:
    if isinstance(value, str):
        return min(-(-len(value) // CHARACTERS_PER_TOKEN) + 2, max_length)
    if isinstance(value, Mapping):
        return sum(_estimate(part, max_length) for part in value.values())
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int):
            return min(len(value) + 2, max_length)
        return sum(_estimate(part, max_length) for part in value)
    return 1
