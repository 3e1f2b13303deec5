"""Structured pruning in the middle of a run: heads and intermediate units are removed, and training continues.

Differs from the surgery `prune`: the optimiser and the averages of the weights keep their state of what stays, so that
no warm-up is needed. Importance is the product of the norms of the weights before and after a head or unit, as with
`importance=magnitude` there (arXiv:1905.10650 measures it on texts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from encodery.base.errors import CheckpointError
from encodery.base.settings import check_at_least, check_interval
from encodery.model.network import Model
from encodery.model.units import KeptUnits, Selection, best_units, check_units, magnitude_scores
from encodery.train.hooks import Hook, RunningHook, TrainState

DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Shrink(Hook):
    """Use it to train a model large and finish it small. `keep_heads`, `keep_intermediate`: the fractions of all heads
    and intermediate units that stay; `at`: the fraction of the budget after which the others are removed;
    `multiple_of`: intermediate sizes are rounded up to a multiple of it. Needs one process, `train.compile` = false.

        hooks = [{is = "shrink", at = 0.5, keep_heads = 0.5, keep_intermediate = 0.5}]
    """

    resizes: ClassVar[bool] = True

    keep_heads: float = 0.5
    keep_intermediate: float = 0.5
    at: float = 0.5
    multiple_of: int = 8

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x <= 1", "keep_heads", "keep_intermediate", "at")
        check_at_least(self, 1, "multiple_of")

    def build(self, module: nn.Module) -> RunningHook:
        """Raises `SettingsError` for a model whose heads and units cannot be removed."""
        models = [inner for inner in module.modules() if isinstance(inner, Model)]
        for model in models:
            check_units(model)
        return _RunningShrink(self, models[0] if models else None)


class _RunningShrink(RunningHook):
    def __init__(self, settings: Shrink, model: Model | None) -> None:
        self.settings, self.model, self.done = settings, model, False

    def kept_units(self, state: TrainState) -> KeptUnits | None:
        settings = self.settings
        if self.done or self.model is None or state.progress < settings.at:
            return None
        self.done = True
        scores = magnitude_scores(self.model)
        return best_units(scores, settings.keep_heads, settings.keep_intermediate, settings.multiple_of, False)

    def resize(self, smaller: Mapping[nn.Parameter, Selection]) -> None:
        """It keeps nothing of the weights."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Whether the model was made smaller."""
        return {DONE: torch.tensor(self.done)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `CheckpointError` for the state of another hook."""
        if set(tensors) != {DONE}:
            raise CheckpointError("shrink: the checkpoint holds the state of another hook.")
        self.done = bool(tensors[DONE])
