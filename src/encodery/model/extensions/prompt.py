"""Soft prompts: trained vectors before every sequence, which all its tokens attend to. arXiv:2104.08691

They are inserted after the embeddings and removed again after the last layer, so real tokens keep their positions, and
a model with learned positions takes as many tokens as before. With `deep` each layer has its own vectors, which
replace the layer below's outputs at those positions (arXiv:2110.07602, where keys and values themselves are trained;
here the vectors pass through the layer's projections). In layers of limited reach only tokens within it attend to them.
Shapes: T tokens, B sequences, H width, K vectors, L layers that have their own vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.settings import check_at_least
from encodery.model.extensions import ExtensionModules, ModelExtension
from encodery.model.sequence_transform import SequenceTransform
from encodery.model.shape import Layout, Shape

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(ModelExtension):
    """Use it through `adapt=prompt`, which adds it to a trained model and trains it alone.

    `num_tokens` is K; with `deep` every layer has its own vectors.

        [model]
        extensions = [{is = "prompt", num_tokens = 20}]
    """

    num_tokens: int = 20
    deep: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_tokens")

    def build(self, shape: Shape) -> ExtensionModules:
        layers = max(shape.depth, 1) if self.deep else 1
        return ExtensionModules(sequence_transform=_SoftPromptModule(layers, self.num_tokens, shape.width))

    def incompatibility(self, shape: Shape) -> str | None:
        if shape.reach.is_band:
            return None
        return "its vectors come first in every sequence, in the place of the mask's sinks, prefix or global positions."


class _SoftPromptModule(SequenceTransform):
    def __init__(self, layers: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(layers, num_tokens, width))

    def transform(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        wider, real, virtual = _with_virtual_tokens(layout, self.vectors.shape[1])
        space = x.new_zeros(wider.tokens, x.shape[1]).index_copy(0, real, x)
        return self._put(space, virtual, 0), wider

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


def _with_virtual_tokens(layout: Layout, num_tokens: int) -> tuple[Layout, Tensor, Tensor]:
    """Return the layout with `num_tokens` more positions at the start of each sequence, and the indices of the real
    positions (T,) and of the virtual ones (B·K,).

    The new layout is kept in the memo of `layout`, the indices in the memo of the new layout.
    """
    key = (SoftPrompt, num_tokens)
    if key not in layout.memo:
        cu = layout.cu_seqlens
        count = cu.numel() - 1
        more = torch.arange(count + 1, device=cu.device, dtype=cu.dtype) * num_tokens
        wider = Layout(
            cu + more,
            layout.max_seqlen + num_tokens,
            layout.tokens + count * num_tokens,
            reach=layout.reach,
            prefix=None if layout.prefix is None else layout.prefix + num_tokens,
        )
        real = torch.arange(layout.tokens, device=cu.device) + (layout.sequence_ids + 1) * num_tokens
        virtual = (wider.cu_seqlens[:-1, None].long() + torch.arange(num_tokens, device=cu.device)).flatten()
        wider.memo[SoftPrompt] = (real, virtual)
        layout.memo[key] = wider
    widened: Layout = layout.memo[key]
    return widened, *widened.memo[SoftPrompt]
