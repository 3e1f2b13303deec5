"""The model begins as a guess from the neighbours on both sides, and goes on from there.

Differs from `cooccurrence`, with which words and the decoder's bias begin: the heads of the first layer begin as ones
that look at the next and at the previous token, half of them each, those of the second at the ones beyond. What the
first layer's heads pass on is the map that tells best, from the vector of a neighbour, which words it stands beside
(least squares against the same counts, its leading singular directions), and the head of masked language modelling
begins as a straight line. A transformer finds heads that look at neighbours by itself (arXiv:1905.09418), late where
positions are added to the embeddings; that structure may be given at the start is known of images (arXiv:2305.09828).

Nothing but the words where the attention has no weights of single heads or the table is narrower than the model; heads
stay as drawn where the positions cannot tell a head how far to look (`Positions.aim`).
Shapes: V vocabulary, H width, N heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention import AttentionModule, HeadWeights
from encodery.model.encoder import Encoder
from encodery.model.network import Model
from encodery.model.positions import PositionsModule
from encodery.tokens.store import TokenSplit
from encodery.train.data_init._counts import CountBasedInit
from encodery.train.data_init._pmi import SparseMatrix

LAYERS = 2  # that look at neighbours: the first at those beside a token, the second at those two away
RIDGE = 1e-2  # of the mean square of what is fitted on


@dataclass(frozen=True, kw_only=True)
class BigramsInit(CountBasedInit):
    """`sharpness`: by how much the score of the token that a head looks at exceeds the mean of all."""

    sharpness: float = 12.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sharpness > 0:
            raise SettingsError(f"sharpness = {self.sharpness}: must be more than 0.")

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Words, heads of the first two layers, head of masked language modelling."""
        encoder, shape, looking = model.encoder, model.settings.shape, False
        tables = self.init_token_embeddings(model, split, generator)
        if tables is None:
            return "random"
        if shape.embedding_size != shape.width:
            return "cooccurrence"
        with torch.no_grad():
            encoder.positions.init_offset_features(self.embedding_std(shape.embedding_size), generator)
            for layer in range(min(LAYERS, shape.depth)):
                for side in (1, -1):
                    heads = self._aimed(encoder, layer, side * (layer + 1))
                    looking = looking or bool(heads)
                    if layer == 0 and heads:
                        _pass_on(heads, _told(*tables[side < 0], encoder.token_embeddings.detach()))
            if looking and "mlm" in model.heads:
                model.mlm_head.init_identity()
        return name_of(self) if looking else "cooccurrence"

    def _aimed(self, encoder: Encoder, layer: int, offset: int) -> list[HeadWeights]:
        """Those heads of a layer that look `offset` tokens away from now on."""
        block = encoder.blocks[layer]
        attention, positions = block.attention, encoder.positions
        assert isinstance(attention, AttentionModule)
        assert isinstance(positions, PositionsModule)
        aim, heads = positions.offset_pattern(offset, self.sharpness, attention.shape), attention.head_weights()
        if aim is None:
            return []
        half = (len(heads) + 1) // 2
        return [head for head in (heads[:half] if offset > 0 else heads[half:]) if head.load_offset_pattern(aim)]


def _told(table: SparseMatrix, turned: SparseMatrix, words: Tensor) -> Tensor:
    """The map (H, H) from the vector of a neighbour, of mean square 1, to what stands beside it: A of the least squares
    of words · A · neighboursᵀ against the table (V, V), whose transpose is `turned`."""
    known = turned @ torch.ones(len(words), 1) > 0
    beside = F.normalize(words, dim=1) * math.sqrt(words.shape[1]) * known
    return _inverse(words) @ (words.T @ (table @ (beside @ _inverse(beside))))


def _inverse(rows: Tensor) -> Tensor:
    """Of the (H, H) products of columns of `rows` (V, H), with a little added."""
    products = rows.T @ rows
    added = (RIDGE * products.diagonal().mean()).clamp(min=torch.finfo().tiny)
    inverse: Tensor = torch.linalg.inv(products + added * torch.eye(len(products)))
    return inverse


def _pass_on(heads: list[HeadWeights], told: Tensor) -> None:
    """Values and outputs of the heads that are, together, the leading directions of `told`, as large as what comes in;
    as drawn where nothing is told."""
    if not told.any():
        return
    left, values, right = torch.linalg.svd(told)
    size = len(heads[0].value)
    kept = values[: size * len(heads)]
    roots = (kept * math.sqrt(len(told)) / kept.norm()).sqrt()
    for place, head in enumerate(heads):
        chosen = slice(place * size, min((place + 1) * size, len(roots)))
        count = max(chosen.stop - chosen.start, 0)
        head.value.zero_()[:count] = roots[chosen, None] * right[chosen]
        head.out.zero_()[:, :count] = left[:, chosen] * roots[chosen]
