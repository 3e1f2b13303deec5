"""Linear attention: products of positive features, elu + 1, in place of the softmax of scores. arXiv:2006.16236

Differs from `full`: the cost is linear in the length, and there is no window and no bias of scores. Rotary positions
rotate the features of the weights but not those of their sum, which stays positive (arXiv:2104.09864, section 3.3).
Shapes: T tokens, H width, N heads, D head size (N·D may differ from H).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.model.attention import Attention, AttentionModule
from encodery.model.cost import Cost
from encodery.model.ops.linear_attention import LinearInputs, chunked
from encodery.model.positions import Positions, PositionsModule
from encodery.model.reach import Reach
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear

WHOLE, CAUSAL = Reach(), Reach(right=0)


@dataclass(frozen=True, kw_only=True)
class LinearAttention(Attention):
    """Use it for documents of many thousand tokens; on short ones softmax attention is better and no slower.

    `bias`: whether the projection to queries, keys and values has a bias; `bias_out`: whether the output projection has
    one.

        [model]
        attention = "linear"
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"head_weights"})

    bias: bool = True
    bias_out: bool = True

    def build(self, shape: Shape) -> AttentionModule:
        return _LinearModule(self, shape)

    def cost(self, shape: Shape, length: float) -> Cost:
        """Sums of products of keys and values are kept once for a sequence, or once for a chunk if it is causal."""
        inner = shape.heads * shape.head_size
        products = 2.0 * 4 * shape.width * inner + 4.0 * inner * shape.head_size
        kept = shape.width + 15 * inner + inner * shape.head_size / length
        if shape.reach == CAUSAL:
            chunk = min(chunked.CHUNK, length)
            products += 4.0 * inner * chunk
            kept = shape.width + 19 * inner + 2 * inner * shape.head_size / chunk + shape.heads * chunk
        return Cost(products, kept)

    def incompatibility(self, shape: Shape, positions: Positions) -> str | None:
        if shape.reach not in (WHOLE, CAUSAL):
            return (
                f"attends to the whole document or to all tokens before, and not within {shape.reach}. Use mask = "
                "'document' or 'causal', or attention = 'full'."
            )
        if positions.kinds & {"bias", "relative"}:
            return "has no scores that positions could be added to. Use positions = 'rotary', or attention = 'full'."
        return None


class _LinearModule(AttentionModule):
    def __init__(self, settings: LinearAttention, shape: Shape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_size
        self.shape = shape
        self.qkv = Linear(shape.width, 3 * inner, bias=settings.bias)
        self.out = Linear(inner, shape.width, bias=settings.bias_out, role="out")

    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        """Raises `SettingsError` if the batch has a reach that is neither the whole document nor causal."""
        qkv = self.qkv(x)
        # Sums over a document are computed in fp32 at least.
        with torch.autocast(qkv.device.type, enabled=False):
            mixed = self._mix(qkv if qkv.dtype == torch.float64 else qkv.float(), layout, positions)
        y: Tensor = self.out(mixed.flatten(1).to(qkv.dtype))
        return y

    def _mix(self, qkv: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        sizes = (self.shape.heads, self.shape.head_size)
        inner = sizes[0] * sizes[1]
        positive = F.elu(qkv[:, : 2 * inner]) + 1
        rotated = positions.rotate(torch.cat([positive, qkv[:, 2 * inner :]], 1), layout, self.shape)
        query, key, value = rotated.view(-1, 3, *sizes).unbind(1)
        positive_query, positive_key = positive.view(-1, 2, *sizes).unbind(1)
        causal = self._is_causal(layout)
        return chunked.attend(LinearInputs(query, key, value, positive_query, positive_key, causal), layout)

    def _is_causal(self, layout: Layout) -> bool:
        reach = layout.reach_of(self.shape.reach)
        if reach == WHOLE:
            return False
        if reach != CAUSAL or layout.prefix is not None:
            prefix = ", with prefixes" if layout.prefix is not None else ""
            raise SettingsError(
                f"attention = 'linear': the reach of the batch, {reach}{prefix}, is neither the whole document nor "
                "causal. Use attention = 'full'."
            )
        return True
