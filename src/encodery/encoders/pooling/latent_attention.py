"""Tokens look up a learned dictionary before they are averaged. arXiv:2405.17428 (NV-Embed)

Each token attends to R trained latents; what it finds goes through a feed-forward layer and is added to it, which the
paper does not do: so an untrained one equals `mean`, and a small model is not thrown off.
Shapes: T tokens, B sequences, H width, N heads, R latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling._sums import weighted_mean
from encodery.model.shape import Batch, Output, Shape


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Pooling):
    """`latents`: rows R of the dictionary; `inner`: width of the feed-forward layer, 2 · H if not given."""

    latents: int = 64
    intermediate_size: int | None = None

    def __post_init__(self) -> None:
        if self.latents < 1 or (self.intermediate_size is not None and self.intermediate_size < 1):
            raise SettingsError(f"latents = {self.latents}, inner = {self.intermediate_size}: must be positive.")

    def build(self, shape: Shape) -> PoolingModule:
        return _LatentModule(shape.width, shape.heads, self.latents, self.intermediate_size or 2 * shape.width)


class _LatentModule(PoolingModule):
    def __init__(self, width: int, heads: int, latents: int, inner: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        own = output.hidden.float()
        query = self._split(self.query(own))
        key, value = self._split(self.key(self.latents)), self._split(self.value(self.latents))
        found = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        hidden = own + self.down(F.gelu(self.up(found)))
        return weighted_mean(hidden, torch.ones_like(batch.ids), batch)

    def _split(self, rows: Tensor) -> Tensor:
        """(M, H) → (N, M, H / N)."""
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)
