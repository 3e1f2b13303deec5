"""What happens beside a step: averaging of weights, a quantity that moves with progress, another log.

A part holds settings; `build` gives the hook at work, which has a state, and whose every method does nothing unless
the part says otherwise. The loop calls the hooks of a run in the order of the recipe.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from encodery.base.parts import Part


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: steps done, tokens seen by all ranks, seconds, and the share 0..1 of the budget."""

    step: int
    tokens: int
    elapsed: float
    progress: float


class Hook(Part):
    """Contract of a hook."""

    @abc.abstractmethod
    def build(self, module: nn.Module) -> RunningHook:
        """The hook at work on the trained module, which is on its device, with its first weights."""


class RunningHook:
    """A hook at work. Equal calls give equal states, or a resumed run would drift from an uninterrupted one."""

    def before_step(self, state: TrainState) -> None:
        """Before the batches of a step are prepared; `moment` counts the steps done so far."""

    def after_step(self, state: TrainState) -> None:
        """After the optimiser's step, this step counted in `moment`. Not called for a step that was skipped."""

    def evaluation_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it the module has the weights that are to be scored and exported; after it, those being trained."""
        return contextlib.nullcontext()

    def metrics(self) -> dict[str, float]:
        """Numbers for the log line of a step."""
        return {}

    def state_tensors(self) -> dict[str, Tensor]:
        """All of the state, by names of the hook's own choice; for the checkpoint."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_tensors` gave. Raises `CheckpointError` if it is another hook's or model's."""
