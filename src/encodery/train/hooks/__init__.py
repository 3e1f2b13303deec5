"""Hooks: what happens around a step, such as averaging the weights or changing a quantity with progress.

A part holds settings; `build` makes the running hook, which has a state and whose methods do nothing by default. The
loop calls the hooks of a run in the order of the recipe."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.parts import Part
from encodery.model.units import KeptUnits, Selection


@dataclass(frozen=True)
class TrainState:
    """How far a run is: steps, tokens of all ranks, seconds, and the fraction 0..1 of the budget."""

    step: int
    tokens: int
    elapsed: float
    progress: float


class Hook(Part):
    """Contract of a hook."""

    resizes: ClassVar[bool] = False
    """Whether its `kept_units` can return something; only an execution that `supports_resizing` runs it."""

    @abc.abstractmethod
    def build(self, module: nn.Module) -> RunningHook:
        """The running hook of a trained module, which is on its device with its first weights."""


class RunningHook(abc.ABC):  # noqa: B024
    """A hook of one run. Equal calls must give equal states, otherwise a resumed run differs from an uninterrupted
    one."""

    def before_step(self, state: TrainState) -> None:  # noqa: B027
        """Called before the batches of a step are prepared; `state` counts the steps done so far."""

    def kept_units(self, state: TrainState) -> KeptUnits | None:
        """The heads and units of the model that stay from now on, asked before each step; None: all of them.

        The loop removes the others from the model, from the state of the optimiser and from that of all hooks.
        """
        return None

    def resize(self, smaller: Mapping[nn.Parameter, Selection]) -> None:
        """Follow parameters that became smaller in place. Raises `SettingsError` if the hook keeps state of them."""
        if self.state_tensors():
            raise SettingsError(f"hooks: {type(self).__name__.lstrip('_')} cannot follow a model that becomes smaller.")

    def after_step(self, state: TrainState) -> None:  # noqa: B027
        """Called after the step of the optimiser, which `state` counts; not called for a skipped step."""

    def evaluation_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the module has the weights that are scored and exported; outside, those that are trained."""
        return contextlib.nullcontext()

    def metrics(self) -> dict[str, float]:
        """Numbers for the log line of a step."""
        return {}

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state for a checkpoint, by names that the hook chooses."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Load what `state_tensors` returned. Raises `CheckpointError` if it belongs to another hook or model."""
