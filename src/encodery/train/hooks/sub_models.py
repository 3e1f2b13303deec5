"""Sub-models first: for a while each step trains the top of a shallower model, made of the bottom layers.
arXiv:2110.07143 (bert2BERT, its two-stage training)

For `share` of the budget each step draws how many layers are used, a multiple of `layers` or all of them. The output
head reads the highest of these, and only the top `layers` of them, the final norm and the head (with a tied word table)
learn. So a step costs less, forward by the layers above and backward by those below. Afterwards everything trains as
always. Scores and what is saved are of the whole model; the share of the matrix peak in the log counts all layers.
Shapes: T tokens, H width.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.model.encoder import Encoder
from encodery.train.hooks import Hook, RunningHook, TrainState


@dataclass(frozen=True, kw_only=True)
class SubModels(Hook):
    """`layers` that learn at once, which is also the least depth; `share` of the budget; `seed` of the drawing."""

    trained_layers: int = 3
    budget_fraction: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trained_layers < 1:
            raise SettingsError(f"layers = {self.trained_layers}: must be at least 1.")
        if not 0 <= self.budget_fraction <= 1:
            raise SettingsError(f"share = {self.budget_fraction}: is a share of the budget, 0 <= share <= 1.")

    def build(self, module: nn.Module) -> RunningHook:
        """At work on every encoder in `module`."""
        return _SubModels(self, [found for found in module.modules() if isinstance(found, Encoder)])


class _SubModels(RunningHook):
    def __init__(self, settings: SubModels, encoders: list[Encoder]) -> None:
        self.settings, self.encoders = settings, encoders
        self.depth: int | None = None  # of the sub-model; None: the whole
        self.handles: list[RemovableHandle] = []
        self.still: list[nn.Parameter] = []

    def before_step(self, state: TrainState) -> None:
        """Draw the sub-model of this step."""
        self._restore()
        depths = [len(encoder.blocks) for encoder in self.encoders]
        if state.progress < self.settings.budget_fraction and depths:
            choices = [*range(self.settings.trained_layers, min(depths), self.settings.trained_layers), min(depths)]
            self.depth = random.Random(derive_seed(self.settings.seed, "sub-model", state.step)).choice(choices)
            self._cut(self.depth)

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The whole model."""
        depth = self.depth
        self._restore()
        try:
            yield
        finally:
            if depth is not None:
                self._cut(depth)
            self.depth = depth

    def metrics(self) -> dict[str, float]:
        """`layers` of the sub-model; nothing once the whole is trained."""
        return {} if self.depth is None else {"layers": float(self.depth)}

    def _cut(self, depth: int) -> None:
        for encoder in self.encoders:
            for block in encoder.blocks[depth:]:
                block.forward = _passed
            lowest = max(depth - self.settings.trained_layers, 0)
            idle = [*encoder.blocks[:lowest], *encoder.blocks[depth:]]
            if lowest:
                self.handles.append(encoder.blocks[lowest].register_forward_pre_hook(_detached))
                idle += [encoder.embeddings, encoder.positions, encoder.embedding_norm]
            # Without this, ranks would add up zeros for them, and an optimiser would move them by its momentum.
            held = {
                p
                for module in idle
                for p in module.parameters()
                if p.requires_grad and p is not encoder.token_embeddings
            }
            self.still += held
            for p in held:
                p.requires_grad_(False)

    def _restore(self) -> None:
        for handle in self.handles:
            handle.remove()
        for p in self.still:
            p.requires_grad_(True)
        self.handles, self.still, self.depth = [], [], None
        for encoder in self.encoders:
            for block in encoder.blocks:
                vars(block).pop("forward", None)


def _passed(x: Tensor, *rest: Any) -> Tensor:
    """In place of a block: x (T, H) as it is."""
    return x


def _detached(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a block gets, its first argument x (T, H) without a gradient."""
    return (given[0].detach(), *given[1:])
