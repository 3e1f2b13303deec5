"""The decoder of denoising: it writes a text again from the tokens before and one vector.

Shapes: B texts, L tokens of the longest, T tokens of all, H width, E width of the token embeddings, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.model.packing import unpack
from encodery.model.shape import Layout, Shape

STD = 0.02  # of initial weights


class DenoisingDecoder(nn.Module):
    """Token embeddings so far and a vector → features (T, E), whose products with the token embeddings are logits of
    the next token. It has its own few layers and no access to the encoder's states, which leaves more to the vector.
    """

    def __init__(self, shape: Shape, depth: int) -> None:
        super().__init__()
        self.widen = nn.Linear(shape.embedding_size, shape.width)
        self.position_embeddings = nn.Parameter(torch.randn(shape.max_length, shape.width) * STD)
        self.layers = nn.ModuleList(_Layer(shape.width, shape.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.width)
        self.narrow = nn.Linear(shape.width, shape.embedding_size)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=STD)
                nn.init.zeros_(module.bias)

    def forward(self, embeddings: Tensor, vectors: Tensor, layout: Layout) -> Tensor:
        """Token embeddings (T, E) and vectors (B, H) → (T, E)."""
        x = self.widen(embeddings) + self.position_embeddings[layout.positions]
        memory = vectors[layout.sequence_ids]
        for layer in self.layers:
            x = layer(x, memory, layout)
        features: Tensor = self.narrow(self.norm(x))
        return features


class _Layer(nn.Module):
    """Causal attention among the tokens, then the vector, then a feed-forward layer; pre-norm.

    Cross-attention to a single vector gives that vector whatever the query is, so a linear layer of it is added.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.memory = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, memory: Tensor, layout: Layout) -> Tensor:
        """(T, H) and the vector of each token's text (T, H) → (T, H)."""
        x = x + self._attend(self.norm(x), layout) + self.memory(memory)
        y: Tensor = x + self.down(F.gelu(self.up(self.ffn_norm(x))))
        return y

    def _attend(self, x: Tensor, layout: Layout) -> Tensor:
        """Padded at the end, where causal attention never looks."""
        padded = unpack(self.qkv(x), layout)  # (B, L, 3H)
        count, longest = padded.shape[:2]
        query, key, value = padded.view(count, longest, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        flat = attended.transpose(1, 2).reshape(count * longest, -1)
        return self.out(flat[layout.sequence_ids * longest + layout.positions])  # type: ignore[no-any-return]
