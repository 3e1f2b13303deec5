"""The generator of replaced-token detection: a narrow masked language model that shares the model's tables.

Tables of tokens, segments and learned positions belong to the model and are no weights of the generator, which
projects them to its own width (arXiv:2003.10555, section 3.2: only embeddings are shared). Shapes: T tokens,
M masked tokens, E embedding size, V vocabulary.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from encodery.model.embeddings import EmbeddingsModule
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.encoder import Encoder
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.weights import Linear

LOGITS_AT_ONCE = 1 << 22
"""The most logits that are in memory at once while tokens are drawn."""


def generator_settings(model: ModelSettings, size: float) -> ModelSettings:
    """Return the settings of a generator with `size` times the width, heads and intermediate size of a model."""
    shape = model.shape
    heads = max(1, round(size * shape.heads))
    return dataclasses.replace(
        model,
        width=heads * shape.head_size,
        heads=heads,
        head_size=shape.head_size,
        intermediate_size=max(1, round(size * shape.intermediate_size)),
        layers=(),
        embeddings=FactorizedEmbeddings(width=shape.embedding_size),
        head=MLMHead(),
        extra_heads=(),
        decoder=None,
        extensions=(),
    )


class Generator(nn.Module):
    """A masked language model whose embedding tables are those of another model, from `share` on."""

    def __init__(self, settings: ModelSettings, model: ModelSettings) -> None:
        super().__init__()
        self.network = Model(settings)
        encoder = self.network.encoder
        project = encoder.embeddings.get_submodule("project")
        assert isinstance(project, Linear)
        encoder.embeddings = _SharedEmbeddings(project)
        with torch.device("meta"):
            theirs = model.positions.build(model.shape)
        self.shares_positions = _tensor_shapes(theirs) == _tensor_shapes(encoder.positions) != []
        if self.shares_positions:
            del encoder.positions

    def share(self, encoder: Encoder) -> None:
        """Use the tables of `encoder`, without registering them."""
        embeddings = self.network.encoder.embeddings
        assert isinstance(embeddings, _SharedEmbeddings)
        embeddings.tables = (encoder.embeddings,)
        if self.shares_positions:
            self.network.encoder.__dict__["positions"] = encoder.positions

    @torch.no_grad()
    def draw(self, features: Tensor, draws: Tensor) -> Tensor:
        """Draw a token (M,) for each position from the generator's distribution; no gradient flows through it.

        Args:
            features: What the decoder reads, (M, E).
            draws: A number in [0, 1) for each position (M,): the token at which the cumulative probability exceeds it.
        """
        weight, bias = self.network.mlm_head.decoder(self.network.encoder)
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        tokens = []
        for start in range(0, max(len(draws), 1), rows):
            logits = nn.functional.linear(features[start : start + rows], weight, bias)
            cumulative = logits.float().softmax(1).cumsum(1)
            numbers = draws[start : start + rows, None] * cumulative[:, -1:]
            index = torch.searchsorted(cumulative, numbers, right=True)
            tokens.append(index.squeeze(1).clamp_(max=len(weight) - 1))
        return torch.cat(tokens)


class _SharedEmbeddings(EmbeddingsModule):
    """The tables of another module, which a tuple keeps from being registered, and a projection."""

    def __init__(self, project: Linear) -> None:
        super().__init__()
        self.project = project
        self.tables: tuple[EmbeddingsModule, ...] = ()

    @property
    def token_embeddings(self) -> Tensor:
        return self.tables[0].token_embeddings

    def forward(self, ids: Tensor, segment: Tensor | None) -> Tensor:
        embedded: Tensor = self.tables[0](ids, segment)
        return embedded

    def widen(self, x: Tensor) -> Tensor:
        widened: Tensor = self.project(x)
        return widened


def _tensor_shapes(module: nn.Module) -> list[tuple[str, torch.Size]]:
    """Names and shapes of a module's parameters and buffers."""
    return [(name, tensor.shape) for name, tensor in (*module.named_parameters(), *module.named_buffers())]
