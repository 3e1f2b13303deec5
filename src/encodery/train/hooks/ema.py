"""An exponential moving average of the weights, for evaluation and export. arXiv:1703.01780 (mean teacher)

After each step average += (1 - decay) · (weights - average). In the first steps the decay is at most (1 + n) / (10 +
n), where n is the number of averages taken, so that the random start is soon forgotten. Costs one more copy of the
weights and one pass over them. Use it for a less noisy final model: `hooks=[{is="ema", decay=0.999}]`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import CheckpointError, SettingsError
from encodery.model.units import Selection
from encodery.train.hooks import Hook, RunningHook, TrainState

COUNT = "averages_taken"


@dataclass(frozen=True, kw_only=True)
class EMA(Hook):
    """`decay` per average; an average is taken every `every` steps."""

    decay: float = 0.999
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise SettingsError(f"decay = {self.decay}: must be at least 0 and below 1.")
        if self.every < 1:
            raise SettingsError(f"every = {self.every}: must be at least 1 step.")

    def build(self, module: nn.Module) -> RunningHook:
        """The average, equal to the weights at first."""
        return _Average(self, module)


class _Average(RunningHook):
    def __init__(self, settings: EMA, module: nn.Module) -> None:
        self.settings = settings
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}
        self.count = 0

    def after_step(self, state: TrainState) -> None:
        """Move the average towards the weights."""
        if state.step % self.settings.every:
            return
        decay = min(self.settings.decay, (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        self.count += 1

    def resize(self, smaller: Mapping[nn.Parameter, Selection]) -> None:
        """The average shrinks with the weights."""
        for name, p in self.weights.items():
            if p in smaller:
                self.average[name] = smaller[p].of(self.average[name])

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Inside, the parameters of the module hold the average. The values are copied, since sharded weights and
        compiled steps know a parameter by its memory."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, p in self.weights.items():
                trained = p.detach().clone()
                p.copy_(self.average[name])
                self.average[name].copy_(trained)

    def state_tensors(self) -> dict[str, Tensor]:
        """The average by parameter name, and how many averages were taken."""
        return {**self.average, COUNT: torch.tensor(self.count)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `CheckpointError` if names or shapes are not those of the module."""
        wrong = {*self.average, COUNT} ^ set(tensors)
        wrong |= {name for name, p in self.average.items() if name not in wrong and tensors[name].shape != p.shape}
        if wrong:
            raise CheckpointError(f"ema: the averaged weights are another model's; first difference: '{min(wrong)}'.")
        for name, p in self.average.items():
            p.copy_(tensors[name])
        self.count = int(tensors[COUNT])
