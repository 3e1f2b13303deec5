"""Trained vectors in front of every sequence, seen by all its tokens and taken off again. arXiv:2104.08691

They join behind the embeddings: real tokens keep their positions, and a model with learned positions takes as many
as before. With `deep` each layer has vectors of its own, in place of what the layer below made of the first ones
(arXiv:2110.07602, where keys and values themselves are trained; here they go through the layer's own projections).
Layers with a window show them only to tokens it reaches.
Shapes: T tokens, B sequences, H width, K vectors, L layers that have their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.extensions import ExtensionModules, ModelExtension, SequenceTransform
from encodery.model.shape import Layout, Shape

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(ModelExtension):
    """`tokens` is K."""

    num_tokens: int = 20
    deep: bool = False

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise SettingsError(f"tokens = {self.num_tokens}: must be at least 1.")

    def build(self, shape: Shape) -> ExtensionModules:
        return ExtensionModules(
            sequence_transform=_PromptModule(max(shape.depth, 1) if self.deep else 1, self.num_tokens, shape.width)
        )


class _PromptModule(SequenceTransform):
    def __init__(self, layers: int, tokens: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(layers, tokens, width))

    def transform(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        wider, real, virtual = _widened(layout, self.vectors.shape[1])
        room = x.new_zeros(wider.tokens, x.shape[1]).index_copy(0, real, x)
        return self._put(room, virtual, 0), wider

    def before_layer(self, x: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Layout]:
        if layer == 0 or layer >= len(self.vectors):
            return x, layout
        _, virtual = layout.memo[SoftPrompt]
        return self._put(x, virtual, layer), layout

    def restore(self, x: Tensor, layout: Layout) -> Tensor:
        real, _ = layout.memo[SoftPrompt]
        return x.index_select(0, real)

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.vectors, std=STD, generator=generator)

    def _put(self, x: Tensor, virtual: Tensor, layer: int) -> Tensor:
        vectors = self.vectors[layer].to(x.dtype)
        return x.index_copy(0, virtual, vectors.repeat(len(virtual) // len(vectors), 1))


def _widened(layout: Layout, tokens: int) -> tuple[Layout, Tensor, Tensor]:
    """The layout with `tokens` more at the head of each sequence, kept in the memo of the given one; the rows of the
    real tokens (T,) and of the others (B·K,), which the new one's memo holds too."""
    key = (SoftPrompt, tokens)
    if key not in layout.memo:
        cu = layout.cu_seqlens
        count = cu.numel() - 1
        more = torch.arange(count + 1, device=cu.device, dtype=cu.dtype) * tokens
        wider = Layout(cu + more, layout.max_seqlen + tokens, layout.tokens + count * tokens)
        real = torch.arange(layout.tokens, device=cu.device) + (layout.sequence_ids + 1) * tokens
        virtual = (wider.cu_seqlens[:-1, None].long() + torch.arange(tokens, device=cu.device)).flatten()
        wider.memo[SoftPrompt] = (real, virtual)
        layout.memo[key] = wider
    found: Layout = layout.memo[key]
    return found, *found.memo[SoftPrompt]
