"""Blocks: the order in which a layer applies attention, feed-forward, norms and residual connections."""

from __future__ import annotations

import abc
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from encodery.base.parts import Part
from encodery.model.attention import Attention
from encodery.model.extensions import IdentityAdapter, SublayerAdapter
from encodery.model.ffn import FFN
from encodery.model.norms import Norm
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape

ActivationCheckpointing = Literal["nothing", "attention", "ffn", "block"]


class Block(Part):
    """A layer made of an attention, a feed-forward and norms, which are given to it."""

    @abc.abstractmethod
    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        """The module of layer `shape.layer`; `dropout` is that of the outputs of attention and feed-forward."""

    def final(self, shape: Shape, norm: Norm) -> nn.Module:
        """What follows the last block, (T, H) → (T, H)."""
        return nn.Identity()


class BlockModule(nn.Module):
    """One layer, with `attention`, `attention_norm`, `ffn` and `ffn_norm`. Abstract.

    The outputs of the two sublayers pass through the adapters `after_attention` and `after_ffn` before dropout and the
    residual sum. `activation_checkpointing`: what is recomputed from its input in the backward pass instead of being
    kept in memory (arXiv:1604.06174); the result is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing: ActivationCheckpointing = "nothing"
        self.after_attention: SublayerAdapter = IdentityAdapter()
        self.after_ffn: SublayerAdapter = IdentityAdapter()

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H), which is not modified → (T, H)."""

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


def add_residual(added: Tensor, x: Tensor) -> Tensor:
    """Return added + x, in the wider dtype of the two, so that under autocast the residual stream stays in fp32.

    If the dtypes are equal the sum is written into `added`, which must not be used elsewhere.
    """
    return added.add_(x) if added.dtype == x.dtype else x + added
