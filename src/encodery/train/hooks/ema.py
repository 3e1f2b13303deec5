"""A running average of the weights, used for scores and export (Polyak averaging; mean teacher, arXiv 1703.01780).

After each step average += (1 - decay) · (weights - average). In the first steps the decay is at most
(1 + n) / (10 + n), n the number of averages taken, so that the random start is soon forgotten. Costs one more copy
of the weights and one pass over them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import CheckpointError, SettingsError
from encodery.train.hooks import Hook, RunningHook, TrainState

COUNT = "averages_taken"


@dataclass(frozen=True, kw_only=True)
class EMA(Hook):
    """`decay` per average; an average is taken every `every` steps."""

    decay: float = 0.999
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise SettingsError(f"decay = {self.decay}: must lie in 0 <= decay < 1.")
        if self.every < 1:
            raise SettingsError(f"every = {self.every}: must be at least 1 step.")

    def build(self, module: nn.Module) -> RunningHook:
        """The average, equal to the weights at first."""
        return _Average(self, module)


class _Average(RunningHook):
    def __init__(self, settings: EMA, module: nn.Module) -> None:
        self.settings = settings
        self.live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}
        self.taken = 0

    def after_step(self, state: TrainState) -> None:
        """Move the average towards the weights."""
        if state.step % self.settings.every:
            return
        decay = min(self.settings.decay, (1 + self.taken) / (10 + self.taken))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1 - decay)
        self.taken += 1

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The module's parameters hold the average, and the trained weights again afterwards. By copying: dealt weights
        and compiled steps know a parameter by its memory."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, p in self.live.items():
                held = p.detach().clone()
                p.copy_(self.average[name])
                self.average[name].copy_(held)

    def state_tensors(self) -> dict[str, Tensor]:
        """The average by parameter name, and how many were taken."""
        return {**self.average, COUNT: torch.tensor(self.taken)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `CheckpointError` where names or shapes are not the module's."""
        wrong = {*self.average, COUNT} ^ set(tensors)
        wrong |= {name for name, p in self.average.items() if name not in wrong and tensors[name].shape != p.shape}
        if wrong:
            raise CheckpointError(f"ema: the averaged weights are another model's; first difference: '{min(wrong)}'.")
        for name, p in self.average.items():
            p.copy_(tensors[name])
        self.taken = int(tensors[COUNT])
