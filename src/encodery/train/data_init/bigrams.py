"""The model starts as a predictor from both neighbours of a token, and is trained from there.

Differs from `cooccurrence`, with which token embeddings and decoder bias are initialised: attention heads of the first
layer attend to the next and to the previous token, half of them each, those of the second layer to the tokens two away.
The values and outputs of the first layer's heads are the linear map that best predicts, from the embedding of a
neighbour, which tokens are next to it (least squares on the same counts, its leading singular directions), and the head
of masked language modelling is initialised as the identity. A transformer learns heads that attend to neighbours by
itself (arXiv:1905.09418), late if positions are added to the embeddings; that such structure can be given at the start
is known of images (arXiv:2305.09828).

Use it for pre-training from scratch with rotary positions and `model.attention.bias=true`, or with learned positions:
it is the default of our own sizes, `data_init.is=bigrams`. Only token embeddings are initialised if attention has no
weights of single heads or if the embeddings are narrower than the model; heads stay random if the positions have no
pattern for an offset (`Positions.offset_pattern`). Shapes: V vocabulary, H width, N heads, D head size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention import AttentionModule
from encodery.model.encoder import Encoder
from encodery.model.head_weights import HeadWeights
from encodery.model.network import Model
from encodery.model.positions import PositionsModule
from encodery.tokens.store import TokenSplit
from encodery.train.data_init._counts import CountBasedInit
from encodery.train.data_init._pmi import SparseMatrix

LAYERS = 2  # that attend to neighbours: the first one token away, the second two tokens away
RIDGE = 1e-2  # of the mean square of the regressors


@dataclass(frozen=True, kw_only=True)
class BigramsInit(CountBasedInit):
    """`sharpness`: by how much the score of the token that a head attends to exceeds the mean of all scores."""

    sharpness: float = 12.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sharpness > 0:
            raise SettingsError(f"sharpness = {self.sharpness}: must be above 0.")

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Token embeddings, heads of the first two layers, head of masked language modelling."""
        encoder, shape, any_heads = model.encoder, model.settings.shape, False
        pmi = self.init_token_embeddings(model, split, generator)
        if pmi is None:
            return "random"
        if shape.embedding_size != shape.width:
            return "cooccurrence"
        with torch.no_grad():
            encoder.positions.init_offset_features(self.embedding_std(shape.embedding_size), generator)
            for layer in range(min(LAYERS, len(encoder.blocks))):
                for direction in (1, -1):
                    heads = self._init_heads(encoder, layer, direction * (layer + 1))
                    any_heads = any_heads or bool(heads)
                    if layer == 0 and heads:
                        _init_values(heads, _neighbour_map(*pmi[direction < 0], encoder.token_embeddings.detach()))
            if any_heads and "mlm" in model.heads:
                model.mlm_head.init_identity()
        return name_of(self) if any_heads else "cooccurrence"

    def _init_heads(self, encoder: Encoder, layer: int, offset: int) -> list[HeadWeights]:
        """The heads of a layer that attend `offset` tokens away from now on."""
        block = encoder.blocks[layer]
        attention, positions = block.attention, encoder.positions
        if not isinstance(attention, AttentionModule):
            return []  # the layer has no attention
        assert isinstance(positions, PositionsModule)
        pattern = positions.offset_pattern(offset, self.sharpness, attention.shape)
        heads = attention.head_weights()
        if pattern is None:
            return []
        half = (len(heads) + 1) // 2
        candidates = heads[:half] if offset > 0 else heads[half:]
        return [head for head in candidates if head.load_offset_pattern(pattern)]


def _neighbour_map(matrix: SparseMatrix, transpose: SparseMatrix, embeddings: Tensor) -> Tensor:
    """The map (H, H) from the embedding of a neighbour, of mean square 1, to the tokens next to it: the least squares
    solution A of embeddings · A · neighboursᵀ = matrix (V, V); embeddings (V, H)."""
    has_neighbours = transpose @ torch.ones(len(embeddings), 1) > 0
    neighbours = F.normalize(embeddings, dim=1) * math.sqrt(embeddings.shape[1]) * has_neighbours
    return _inverse_gram(embeddings) @ (embeddings.T @ (matrix @ (neighbours @ _inverse_gram(neighbours))))


def _inverse_gram(vectors: Tensor) -> Tensor:
    """The inverse (H, H) of vectorsᵀ · vectors plus a ridge; vectors (V, H)."""
    gram = vectors.T @ vectors
    ridge = (RIDGE * gram.diagonal().mean()).clamp(min=torch.finfo().tiny)
    inverse: Tensor = torch.linalg.inv(gram + ridge * torch.eye(len(gram)))
    return inverse


def _init_values(heads: list[HeadWeights], neighbour_map: Tensor) -> None:
    """Set the values and outputs of the heads, together, to the leading directions of the map, as large as their input;
    random as before if the map is zero."""
    if not neighbour_map.any():
        return
    left, values, right = torch.linalg.svd(neighbour_map)
    size = len(heads[0].value)
    kept = values[: size * len(heads)]
    roots = (kept * math.sqrt(len(neighbour_map)) / kept.norm()).sqrt()
    for index, head in enumerate(heads):
        own = slice(index * size, min((index + 1) * size, len(roots)))
        count = max(own.stop - own.start, 0)
        head.value.zero_()[:count] = roots[own, None] * right[own]
        head.out.zero_()[:, :count] = left[:, own] * roots[own]
