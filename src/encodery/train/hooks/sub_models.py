"""Sub-model training: part of the run trains shallower models, made of the bottom layers. arXiv:2110.07143

This is the two-stage training of bert2BERT.
For `budget_fraction` of the budget each step draws how many layers are used: a multiple of `trained_layers`, or all of
them. The output head reads the highest of these, and only the top `trained_layers` of them, the final norm and the head
(with tied token embeddings) are trained. So a step costs less: the layers above are left out of the forward pass, those
below out of the backward pass. Afterwards everything is trained as usual. Scores and the saved model are of the whole
model; the utilisation in the log counts all layers. Use it after `surgery.grow`, or for deep models:
`hooks=[{is="sub_models", trained_layers=3}]`. Shapes: T tokens, H width."""

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
    """`trained_layers`: how many layers are trained at once, also the smallest depth; `budget_fraction`: the fraction
    of the budget in which sub-models are trained; `seed` of the drawn depths."""

    trained_layers: int = 3
    budget_fraction: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trained_layers < 1:
            raise SettingsError(f"trained_layers = {self.trained_layers}: must be at least 1.")
        if not 0 <= self.budget_fraction <= 1:
            raise SettingsError(f"budget_fraction = {self.budget_fraction}: must be at least 0 and at most 1.")

    def build(self, module: nn.Module) -> RunningHook:
        """The hook for every encoder in `module`."""
        encoders = [encoder for encoder in module.modules() if isinstance(encoder, Encoder)]
        if any(encoder.shares_layers for encoder in encoders):
            raise SettingsError("hooks: sub_models trains layers separately, but this model's layers share weights.")
        return _SubModels(self, encoders)


class _SubModels(RunningHook):
    def __init__(self, settings: SubModels, encoders: list[Encoder]) -> None:
        self.settings, self.encoders = settings, encoders
        self.depth: int | None = None  # of the sub-model; None: the whole model
        self.handles: list[RemovableHandle] = []
        self.frozen: list[nn.Parameter] = []

    def before_step(self, state: TrainState) -> None:
        """Draw the sub-model of this step."""
        self._restore()
        depths = [len(encoder.blocks) for encoder in self.encoders]
        if state.progress < self.settings.budget_fraction and depths:
            choices = [*range(self.settings.trained_layers, min(depths), self.settings.trained_layers), min(depths)]
            self.depth = random.Random(derive_seed(self.settings.seed, "sub-model", state.step)).choice(choices)
            self._reduce(self.depth)

    @contextlib.contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """The whole model."""
        depth = self.depth
        self._restore()
        try:
            yield
        finally:
            if depth is not None:
                self._reduce(depth)
            self.depth = depth

    def metrics(self) -> dict[str, float]:
        """`layers` of the sub-model; nothing once the whole model is trained."""
        return {} if self.depth is None else {"layers": float(self.depth)}

    def _reduce(self, depth: int) -> None:
        """Use the lowest `depth` layers and train the top ones of them."""
        for encoder in self.encoders:
            for block in encoder.blocks[depth:]:
                block.forward = _identity
            lowest = max(depth - self.settings.trained_layers, 0)
            idle = [*encoder.blocks[:lowest], *encoder.blocks[depth:]]
            if lowest:
                self.handles.append(encoder.blocks[lowest].register_forward_pre_hook(_detach_input))
                idle += [encoder.embeddings, encoder.positions, encoder.embedding_norm]
            # Otherwise ranks would sum zeros for them, and an optimiser would move them by its momentum.
            embeddings = encoder.token_embeddings
            frozen = {p for module in idle for p in module.parameters() if p.requires_grad and p is not embeddings}
            self.frozen += frozen
            for p in frozen:
                p.requires_grad_(False)

    def _restore(self) -> None:
        """Use and train the whole model."""
        for handle in self.handles:
            handle.remove()
        for p in self.frozen:
            p.requires_grad_(True)
        self.handles, self.frozen, self.depth = [], [], None
        for encoder in self.encoders:
            for block in encoder.blocks:
                vars(block).pop("forward", None)


def _identity(x: Tensor, *rest: Any) -> Tensor:
    """In place of a block: returns x (T, H)."""
    return x


def _detach_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a block, with its input x (T, H) detached."""
    return (args[0].detach(), *args[1:])
