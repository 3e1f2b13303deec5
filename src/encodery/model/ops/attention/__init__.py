"""Attention over packed sequences: chooses the implementation.

Every implementation has a function `attend` that takes `qkv` (T, 3, N, D), the layout, an `AttentionSpec` and the bias
by distance (N, 2R - 1) or None, and returns (T, N, D). `naive` is the reference.
Shapes: T tokens, N heads, D head size, R longest sequence.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from encodery.model.reach import Reach
from encodery.model.shape import Layout


class AttentionSpec(NamedTuple):
    """What a call requires: a reach, a bias by distance, dropout of the weights, and whether the prefixes of the layout
    extend the reach."""

    reach: Reach = Reach()
    bias: bool = False
    dropout: float = 0.0
    prefix: bool = False

    @property
    def is_band(self) -> bool:
        """Whether distance alone decides which tokens a token attends to."""
        return self.reach.is_band and not self.prefix

    @property
    def window(self) -> tuple[int, int]:
        """The limits of the reach on the left and on the right, -1 for none."""
        left, right = self.reach.left, self.reach.right
        return -1 if left is None else left, -1 if right is None else right


AttentionKernel = Callable[[Tensor, Layout, AttentionSpec, Tensor | None], Tensor]


def select_kernel(device: str, dtype: torch.dtype, spec: AttentionSpec) -> AttentionKernel:
    """Return the implementation for a device type ("cpu", "cuda", …), a dtype and a call.

    While a step is compiled, callers use `graph` instead.
    """
    return _select(device, dtype, spec.bias or not spec.is_band, spec.dropout > 0)


@functools.cache
def _select(device: str, dtype: torch.dtype, modified: bool, dropout: bool) -> AttentionKernel:
    name = "padded"
    if device == "cpu" and not dropout:
        name = "grouped"
    elif device == "cuda" and modified and not dropout:
        name = "flex"
    elif device == "cuda" and dtype in (torch.float16, torch.bfloat16) and not dropout:
        name = "varlen"
    attend: AttentionKernel = importlib.import_module(f"{__name__}.{name}").attend
    return attend
