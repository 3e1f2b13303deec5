"""Tokens attend to a learned dictionary before the mean is taken. arXiv:2405.17428 (NV-Embed)

Each token attends to R trained latents; the result passes through a feed-forward layer and is added to the token, which
the paper does not do: so the untrained module equals `mean`, and a small model is not disturbed at the start.
Shapes: T tokens, B sequences, H width, N heads, R latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.settings import check_at_least
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Pooling):
    """`latents`: the number R of dictionary entries; `intermediate_size`: width of the feed-forward layer, 2 · H if not
    given.

    Use it when there is enough labelled data to train more weights than `attention` has:
    `encoder.pooling.is=latent_attention`
    """

    latents: int = 64
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        check_at_least(self, 1, "latents", "intermediate_size")

    def build(self, shape: Shape) -> PoolingModule:
        return _LatentModule(shape.width, shape.heads, self.latents, self.intermediate_size or 2 * shape.width)


class _LatentModule(PoolingModule):
    def __init__(self, width: int, heads: int, latents: int, intermediate_size: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(width, intermediate_size), nn.Linear(intermediate_size, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        tokens = output.hidden.float()
        query = self._split_heads(self.query(tokens))
        key, value = self._split_heads(self.key(self.latents)), self._split_heads(self.value(self.latents))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        hidden = tokens + self.down(F.gelu(self.up(attended)))
        return weighted_mean(hidden, torch.ones_like(batch.ids), batch)

    def _split_heads(self, values: Tensor) -> Tensor:
        """(M, H) → (N, M, H / N)."""
        return values.view(len(values), self.heads, -1).transpose(0, 1)
