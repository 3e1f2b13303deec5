"""The steps of layer-by-layer execution: forward through one layer after another, then backward the same way.

Shapes: T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from encodery.model.auxiliary import AuxiliaryTerm, add_terms, open_sublayers
from encodery.model.blocks import BlockModule
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.objectives import LossTerm, ObjectiveModule, auxiliary_terms, normalised_loss
from encodery.train.execution import PreparedStep, StepTerms
from encodery.train.execution._micro_batches import backward
from encodery.train.precision import autocast

RngState = tuple[Tensor, ...]
"""The state of the CPU generator, then that of the device, if it is another one."""


@dataclass
class _MicroBatchPass:
    """A micro-batch between two layers: the inputs (T, H) of the layers so far and the generator states before each,
    and in the backward pass the gradient (T, H) of the output of the next layer."""

    batch: Batch
    inputs: list[Tensor] = field(default_factory=list)
    rng_states: list[RngState] = field(default_factory=list)
    gradient: Tensor | None = None
    auxiliary: dict[str, AuxiliaryTerm] = field(default_factory=dict)


class LayerSteps:
    """Runs the steps of an objective that reads its batches as they are. All of `module` but the layers is moved to the
    device."""

    def __init__(self, model: Model, objective: ObjectiveModule, module: nn.Module, device: torch.device) -> None:
        self.model, self.objective, self.device = model, objective, device
        self.host_weights: dict[nn.Parameter, Tensor] = {}
        self.in_step = False
        self._place(module)
        for block in model.encoder.blocks:
            block.register_forward_pre_hook(self._fetch_outside_steps)
            block.register_forward_hook(self._release_outside_steps)

    def run(self, step: PreparedStep) -> StepTerms:
        """Add the gradient of a step to the parameters. Each micro-batch draws from its seed, as if it ran alone."""
        passes = [_MicroBatchPass(batch) for batch in step.micro_batches]
        self.in_step = True
        try:
            self._forward(passes, step)
            terms = [self._head(one, step) for one in passes]
            self._backward(passes, step)
        finally:
            self.in_step = False
        return terms

    def _place(self, module: nn.Module) -> None:
        """Move everything but the weights of the layers to the device."""
        layer_weights = {id(p) for p in self.model.encoder.blocks.parameters()}
        for p in module.parameters():
            if id(p) not in layer_weights:
                p.data = p.data.to(self.device)
            elif self.device.type == "cuda":
                p.data = p.data.pin_memory()
        for inner in module.modules():
            for name, buffer in inner.named_buffers(recurse=False):
                setattr(inner, name, buffer.to(self.device))

    def _forward(self, passes: Sequence[_MicroBatchPass], step: PreparedStep) -> None:
        with torch.no_grad(), autocast(step.number_format, self.device):
            for one, seed in zip(passes, step.seeds, strict=True):
                torch.manual_seed(seed)
                self._record(one, self._embed(one.batch))
            for block in self.model.encoder.blocks:
                self._fetch(block)
                for one in passes:
                    self._set_rng_state(one.rng_states[-1])
                    sublayers = open_sublayers(block)
                    self._record(one, self._run_block(block, one.inputs[-1], one.batch))
                    one.auxiliary = add_terms(one.auxiliary, sublayers)
                self._release(block)

    def _backward(self, passes: Sequence[_MicroBatchPass], step: PreparedStep) -> None:
        for block in reversed(self.model.encoder.blocks):
            self._fetch(block)
            for one in passes:
                self._backward_block(one, block, step)
            self._release(block)
        for one, seed in zip(passes, step.seeds, strict=True):
            if one.gradient is not None:
                torch.manual_seed(seed)
                with autocast(step.number_format, self.device):
                    x = self._embed(one.batch)
                if x.requires_grad:
                    x.backward(one.gradient)  # type: ignore[no-untyped-call]

    def _embed(self, batch: Batch) -> Tensor:
        """The input (T, H) of the first layer."""
        encoder = self.model.encoder
        x = encoder.positions.add(encoder.embeddings(batch.ids, batch.segment), batch.layout)
        widened: Tensor = encoder.embeddings.widen(encoder.drop(encoder.embedding_norm(x)))
        return widened

    def _run_block(self, block: nn.Module, x: Tensor, batch: Batch) -> Tensor:
        assert isinstance(block, BlockModule)
        return block.run("block", block, x, batch.layout, self.model.encoder.positions)

    def _head(self, one: _MicroBatchPass, step: PreparedStep) -> dict[str, LossTerm]:
        """The loss terms of a micro-batch behind the last layer, and the backward pass down to that layer."""
        x = one.inputs.pop().detach().requires_grad_()
        self._set_rng_state(one.rng_states.pop())
        model = self.model
        with autocast(step.number_format, self.device):
            mlm_logits = model.mlm_logits if "mlm" in model.heads else None
            output = Output(model.encoder.final_norm(x), mlm_logits=mlm_logits, auxiliary=one.auxiliary)
            terms = self.objective.terms(model, output, one.batch)
        results = backward(terms, step)
        one.gradient = x.grad
        return results

    def _backward_block(self, one: _MicroBatchPass, block: nn.Module, step: PreparedStep) -> None:
        """The forward pass of a layer once more, and its backward pass."""
        x, rng_state = one.inputs.pop().detach().requires_grad_(), one.rng_states.pop()
        if one.gradient is None:
            return
        self._set_rng_state(rng_state)
        sublayers = open_sublayers(block)
        with autocast(step.number_format, self.device):
            y = self._run_block(block, x, one.batch)
        terms = auxiliary_terms(add_terms({}, sublayers), one.batch)
        if y.requires_grad and any(term.weight for term in terms.values()):
            added = normalised_loss(terms, step.counts) * step.loss_scale
            torch.autograd.backward([y, added], [one.gradient, torch.ones_like(added)])
        elif y.requires_grad:
            y.backward(one.gradient)  # type: ignore[no-untyped-call]
        one.gradient = x.grad

    def _record(self, one: _MicroBatchPass, x: Tensor) -> None:
        one.inputs.append(x)
        cuda = (torch.cuda.get_rng_state(self.device),) if self.device.type == "cuda" else ()
        one.rng_states.append((torch.get_rng_state(), *cuda))

    def _set_rng_state(self, states: RngState) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self.device)

    def _fetch(self, block: nn.Module) -> None:
        for p in block.parameters():
            self.host_weights[p] = p.data
            p.data = p.data.to(self.device, non_blocking=True, copy=True)

    def _release(self, block: nn.Module) -> None:
        """Put back the weights, which no pass changes; their gradient moves with them."""
        for p in block.parameters():
            gradient, p.grad = p.grad, None
            p.data = self.host_weights.pop(p)
            p.grad = None if gradient is None else gradient.to(p.device)

    def _fetch_outside_steps(self, block: nn.Module, args: Any) -> None:
        """Before a layer runs in a score."""
        if not self.in_step:
            self._fetch(block)

    def _release_outside_steps(self, block: nn.Module, args: Any, output: Any) -> None:
        if not self.in_step:
            self._release(block)
