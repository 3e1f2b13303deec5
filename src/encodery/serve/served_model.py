"""What the engine runs: a lane is one thing that one model does (vectors, a task's answers, words for masks).

A request is read (tokenised) to units, each a sequence with its number of tokens; units of any requests stand together
in a batch; what comes out of each is finished to an answer. So the three stages know nothing of one another's requests.
Shapes: N units of a request, B units of a batch.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encodery.serve.api_error import ApiError

CHARACTERS_PER_TOKEN = 4  # a token, until the tokens are counted


@dataclass(frozen=True)
class InferenceRequest:
    """A request, as JSON: `model` and `what` name the lane; `inputs` and `options` are the lane's own."""

    model: str
    operation: str
    inputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The lane's name."""
        return f"{self.model}/{self.operation}"

    def estimate_tokens(self, longest: int = 1 << 30) -> int:
        """About how many it has, of a text at most `longest`; known before anything is tokenised."""
        return _tokens(self.inputs, longest)


@dataclass(frozen=True, eq=False)
class TokenizedRequest:
    """A request that was tokenised: `units` (N) and the `tokens` (N,) of each; `told` is what `finish` must know."""

    units: Sequence[Any]
    tokens: Sequence[int]
    context: Any = None


@dataclass(eq=False)
class InferenceResult:
    """`table`: JSON; `arrays` by name; `tokens` and `dropped` of each input, in their order; `seconds` by stage."""

    body: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    tokens: Sequence[int] = ()
    dropped: Sequence[int] = ()
    seconds: dict[str, float] = field(default_factory=dict)


class BatchGroup(abc.ABC):
    """What several lanes have in common that runs their units in one pass."""

    @abc.abstractmethod
    def run(self, parts: Sequence[tuple[ServedModel, Sequence[Any]]]) -> Sequence[Sequence[Any]]:
        """What each unit of each lane gives."""


class ServedModel(abc.ABC):
    """`most`: units of a batch; `apart`: whether no two batches may run side by side; `company`: with whom its units
    stand in one batch, None for its own kind alone."""

    max_units: int = 1 << 20
    exclusive: bool = False
    batch_group: BatchGroup | None = None

    @abc.abstractmethod
    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """Tokenise. Raises `InputError` or `Refusal` for what cannot be used."""

    @abc.abstractmethod
    def run(self, units: Sequence[Any]) -> Sequence[Any]:
        """What each unit (B) gives; no unit's depends on another's, beyond rounding."""

    @abc.abstractmethod
    def finish(self, context: Any, outputs: Sequence[Any]) -> InferenceResult:
        """The answer of a request, from what its units gave."""

    def info(self) -> dict[str, Any]:
        """What `/info` says of it."""
        return {}

    def single_threaded(self) -> ServedModel:
        """The same lane on one thread, to run beside others; itself where its threads are those of the caller."""
        return self


def check_finite(*arrays: np.ndarray) -> None:
    """Raises `Refusal` where a number is none: it would be null in JSON, which is no answer."""
    for array in arrays:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ApiError(500, "non_finite_output", "The model gave a number that is not finite for this input.")


def _tokens(value: Any, longest: int) -> int:
    if isinstance(value, str):
        return min(-(-len(value) // CHARACTERS_PER_TOKEN) + 2, longest)
    if isinstance(value, Mapping):
        return sum(_tokens(part, longest) for part in value.values())
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int):
            return min(len(value) + 2, longest)
        return sum(_tokens(part, longest) for part in value)
    return 1
