"""Attention of one packed batch to another one: chooses the implementation.

Sequence i of the queries attends to the whole of sequence i of the memory. Every implementation has a function `attend`
that takes `query` (T, N, D), `key_value` (M, 2, N, D), the layouts of both and the dropout rate of attention weights,
and returns (T, N, D); a query whose memory has no token gets zeros. `naive` is the reference.
Shapes: T tokens, M tokens of the memory, N heads, D head size.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from encodery.model.shape import Layout

CrossAttentionKernel = Callable[[Tensor, Tensor, Layout, Layout, float], Tensor]


@functools.cache
def select_kernel(device: str, dtype: torch.dtype, dropout: bool) -> CrossAttentionKernel:
    """Return the implementation for a device type ("cpu", "cuda", …), a dtype and whether weights are dropped."""
    half = dtype in (torch.float16, torch.bfloat16)
    name = "varlen" if device == "cuda" and half and not dropout else "grouped"
    attend: CrossAttentionKernel = importlib.import_module(f"{__name__}.{name}").attend
    return attend
