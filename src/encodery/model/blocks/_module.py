"""A layer of the encoder at work, and what of it is recomputed in the backward pass."""

from __future__ import annotations

import abc
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from encodery.base.errors import InputError
from encodery.model.extensions import IdentityAdapter, SublayerAdapter
from encodery.model.memory import CrossAttention, Memory
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape

ActivationCheckpointing = Literal["nothing", "attention", "ffn", "block"]


class BlockModule(nn.Module):
    """One layer, with `attention`, `attention_norm`, `ffn` and `ffn_norm`. Abstract.

    A layer whose shape has no heads has no attention (`has_attention`), and one whose intermediate size is 0 no
    feed-forward (`has_ffn`); their modules are then without weights and are skipped.
    A layer whose shape `reads_memory` has `cross_attention` and `cross_attention_norm` too, between the other two.
    The outputs of attention and feed-forward pass through `after_attention` and `after_ffn` before dropout and the
    residual sum. `activation_checkpointing`: what is recomputed from its input in the backward pass instead of being
    kept in memory (arXiv:1604.06174); the result is the same.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.has_attention, self.has_ffn = shape.heads > 0, shape.intermediate_size > 0
        self.activation_checkpointing: ActivationCheckpointing = "nothing"
        self.after_attention: SublayerAdapter = IdentityAdapter()
        self.after_ffn: SublayerAdapter = IdentityAdapter()
        self.cross_attention: CrossAttention | None = None

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule, memory: Memory | None = None) -> Tensor:
        """x (T, H), which is not modified → (T, H). `memory` is ignored by a layer that does not read one."""

    def read_memory(self, x: Tensor, layout: Layout, memory: Memory | None) -> Tensor:
        """Return the output (T, H) of the cross-attention. Raises `InputError` if there is no memory to read."""
        assert self.cross_attention is not None
        if memory is None:
            raise InputError("This layer reads a memory, and the batch has none: set Batch.memory.")
        return self.run("attention", self.cross_attention, x, layout, memory)

    def run(self, what: ActivationCheckpointing, module: nn.Module, *inputs: Any) -> Tensor:
        """Apply `module`; if `what` is to be recomputed, without keeping what its backward pass needs."""
        if self.activation_checkpointing == what and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(module, *inputs, use_reentrant=False)
            return recomputed
        output: Tensor = module(*inputs)
        return output


def set_activation_checkpointing(module: nn.Module, what: ActivationCheckpointing) -> None:
    """Make every block in `module` recompute `what` in the backward pass."""
    for block in module.modules():
        if isinstance(block, BlockModule):
            block.activation_checkpointing = what
