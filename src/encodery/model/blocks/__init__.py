"""Skeletons of a layer: in which order attention, feed-forward, norms and residuals meet."""

from __future__ import annotations

import abc
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from encodery.base.parts import Part
from encodery.model.attention import Attention
from encodery.model.extensions import SublayerAdapter
from encodery.model.ffn import FFN
from encodery.model.norms import Norm
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape

ActivationCheckpointing = Literal["nothing", "attention", "ffn", "block"]


class Block(Part):
    """A skeleton whose holes are an attention, a feed-forward and a norm."""

    @abc.abstractmethod
    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        """The module of layer `shape.layer`; `dropout` falls on what attention and feed-forward add."""

    def final(self, shape: Shape, norm: Norm) -> nn.Module:
        """What follows the last block, (T, H) → (T, H)."""
        return nn.Identity()


class BlockModule(nn.Module):
    """One layer, with `attention`, `attention_norm`, `ffn` and `ffn_norm`. What the two sublayers give goes through
    `after_attention` and `after_ffn` before dropout and residual sum.

    `recompute`: what is computed a second time when going backward, from its input, instead of being kept in memory
    (arXiv:1604.06174); the result is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activation_checkpointing: ActivationCheckpointing = "nothing"
        self.after_attention = SublayerAdapter()
        self.after_ffn = SublayerAdapter()

    @abc.abstractmethod
    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """x (T, H), left as it is → (T, H)."""

    def run(self, what: ActivationCheckpointing, module: nn.Module, *given: Any) -> Tensor:
        """`module` of `given`; without keeping what its backward pass needs where `what` is to be recomputed."""
        if self.activation_checkpointing == what and torch.is_grad_enabled():
            again: Tensor = checkpoint(module, *given, use_reentrant=False)
            return again
        found: Tensor = module(*given)
        return found


def set_activation_checkpointing(module: nn.Module, what: ActivationCheckpointing) -> None:
    """Let every block in `module` recompute `what`."""
    for block in module.modules():
        if isinstance(block, BlockModule):
            block.activation_checkpointing = what


def add_residual(added: Tensor, x: Tensor) -> Tensor:
    """added + x, written into `added`, which nothing else needs; in the wider dtype of the two, so that under autocast
    the residual stream stays in fp32."""
    return added.add_(x) if added.dtype == x.dtype else x + added
