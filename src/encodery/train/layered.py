"""Layered gradient accumulation: all micro-batches of a step go through a layer before any goes through the next
(arXiv 2106.02679, section 2), for models that exceed the device.

Off by default (`train.layerwise_offload`). A layer's weights come to the device once for the forward and once for the backward
pass of a whole step, however many micro-batches it has, and leave it with their gradient, which waits in main memory
with the moments; the optimiser updates them there. Embeddings, final norm, head and objective stay on the device. Of a
micro-batch only what goes into each layer is kept; a layer is computed again on its way back, with the dropout it had.
Losses are those of the usual order, gradients up to the order of additions. Differs from the paper: one process, no
pipeline.

On a CPU weights are copied to and fro all the same and nothing is won but activations; it is how this is tested. **On a
CUDA device it was never run.** Shapes: T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.blocks import BlockModule
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm, ObjectiveModule, normalised_loss
from encodery.train.precision import NumberFormat, autocast

Terms = dict[str, LossTerm]


@dataclass
class _Way:
    """A micro-batch on its way: what goes into each layer (T, H) and the state of the generators there."""

    batch: Batch
    inputs: list[Tensor] = field(default_factory=list)
    dice: list[tuple[Tensor, ...]] = field(default_factory=list)
    back: Tensor | None = None


class LayerwiseOffload:
    """Runs the steps of an objective that reads its batches as they are.

    Raises `SettingsError` where something stands between the layers.
    """

    def __init__(self, model: Model, objective: ObjectiveModule, device: torch.device) -> None:
        plain = type(objective).encode is ObjectiveModule.encode and type(objective).forward is ObjectiveModule.forward
        if not plain or not model.encoder.sequence_transform.is_identity:
            raise SettingsError(
                "train.layerwise_offload needs a model that reads its batch layer by layer: an objective such as mlm, and no "
                "trained vectors in front of the first layer."
            )
        self.model, self.objective, self.device = model, objective, device
        self.homes: dict[nn.Parameter, Tensor] = {}
        self.stepping = False
        for block in model.encoder.blocks:
            block.register_forward_pre_hook(self._come)
            block.register_forward_hook(self._go)

    def place(self, module: nn.Module) -> None:
        """Put all but the weights of the layers on the device."""
        waiting = {id(p): p.data for p in self.model.encoder.blocks.parameters()}
        for p in module.parameters():
            if id(p) not in waiting:
                p.data = p.data.to(self.device)
            elif self.device.type == "cuda":
                p.data = p.data.pin_memory()
        for inner in module.modules():
            for name, buffer in inner.named_buffers(recurse=False):
                setattr(inner, name, buffer.to(self.device))

    def step(
        self,
        batches: Sequence[Batch],
        counts: Mapping[str, Count],
        chosen: NumberFormat,
        seeds: Sequence[int],
        scale: float,
    ) -> list[Terms]:
        """Leave the gradient of `scale` times the step's loss in the parameters; the terms of each batch, without a
        graph. Each draws from its seed, as if it went through the model alone."""
        ways = [_Way(batch) for batch in batches]
        self.stepping = True
        try:
            self._forward(ways, chosen, seeds)
            found = [self._end(way, counts, chosen, scale) for way in ways]
            self._backward(ways, chosen, seeds)
        finally:
            self.stepping = False
        return found

    def _forward(self, ways: Sequence[_Way], chosen: NumberFormat, seeds: Sequence[int]) -> None:
        with torch.no_grad(), autocast(chosen, self.device):
            for way, seed in zip(ways, seeds, strict=True):
                torch.manual_seed(seed)
                self._note(way, self._embedded(way.batch))
            for block in self.model.encoder.blocks:
                self._fetch(block)
                for way in ways:
                    self._set(way.dice[-1])
                    self._note(way, self._through(block, way.inputs[-1], way.batch))
                self._release(block)

    def _backward(self, ways: Sequence[_Way], chosen: NumberFormat, seeds: Sequence[int]) -> None:
        for block in reversed(self.model.encoder.blocks):
            self._fetch(block)
            for way in ways:
                self._again(way, block, chosen)
            self._release(block)
        for way, seed in zip(ways, seeds, strict=True):
            if way.back is not None:
                torch.manual_seed(seed)
                with autocast(chosen, self.device):
                    x = self._embedded(way.batch)
                if x.requires_grad:
                    x.backward(way.back)  # type: ignore[no-untyped-call]

    def _embedded(self, batch: Batch) -> Tensor:
        """What goes into the first layer."""
        encoder = self.model.encoder
        x = encoder.positions.add(encoder.embeddings(batch.ids, batch.segment), batch.layout)
        widened: Tensor = encoder.embeddings.widen(encoder.drop(encoder.embedding_norm(x)))
        return widened

    def _through(self, block: nn.Module, x: Tensor, batch: Batch) -> Tensor:
        assert isinstance(block, BlockModule)
        return block.run("block", block, x, batch.layout, self.model.encoder.positions)

    def _end(self, way: _Way, counts: Mapping[str, Count], chosen: NumberFormat, scale: float) -> Terms:
        """The terms of a micro-batch that went through all layers; what is behind them goes backward."""
        x = way.inputs.pop().detach().requires_grad_()
        self._set(way.dice.pop())
        model = self.model
        with autocast(chosen, self.device):
            speak = model.mlm_logits if "mlm" in model.heads else None
            output = Output(model.encoder.final_norm(x), mlm_logits=speak)
            terms = self.objective.loss(model, output, way.batch)
        loss = normalised_loss(terms, counts)
        (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
        way.back = x.grad
        return {name: LossTerm(term.total.detach(), term.count, term.weight) for name, term in terms.items()}

    def _again(self, way: _Way, block: nn.Module, chosen: NumberFormat) -> None:
        """A layer forward once more, and backward."""
        x, dice = way.inputs.pop().detach().requires_grad_(), way.dice.pop()
        if way.back is None:
            return
        self._set(dice)
        with autocast(chosen, self.device):
            y = self._through(block, x, way.batch)
        if y.requires_grad:
            y.backward(way.back)  # type: ignore[no-untyped-call]
        way.back = x.grad

    def _note(self, way: _Way, x: Tensor) -> None:
        way.inputs.append(x)
        cards = (torch.cuda.get_rng_state(self.device),) if self.device.type == "cuda" else ()
        way.dice.append((torch.get_rng_state(), *cards))

    def _set(self, dice: tuple[Tensor, ...]) -> None:
        torch.set_rng_state(dice[0])
        for state in dice[1:]:
            torch.cuda.set_rng_state(state, self.device)

    def _fetch(self, block: nn.Module) -> None:
        for p in block.parameters():
            self.homes[p] = p.data
            p.data = p.data.to(self.device, non_blocking=True, copy=True)

    def _release(self, block: nn.Module) -> None:
        """Weights as they were, which no pass changes; their gradient comes along."""
        for p in block.parameters():
            grad, p.grad = p.grad, None
            p.data = self.homes.pop(p)
            p.grad = None if grad is None else grad.to(p.device)

    def _come(self, block: nn.Module, given: Any) -> None:
        """Before a layer that runs elsewhere than in a step: in a score."""
        if not self.stepping:
            self._fetch(block)

    def _go(self, block: nn.Module, given: Any, y: Any) -> None:
        if not self.stepping:
            self._release(block)
