"""Masked-language-model head: dense, activation, norm, then a decoder tied to the word table. arXiv:1810.04805

Shapes: M chosen rows, H width, E embedding width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.heads import HasTokenEmbeddings, LMHead, LMHeadModule
from encodery.model.norms import Norm
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName, Linear, activation

STRAIGHT = 0.2  # of the identity


@dataclass(frozen=True, kw_only=True)
class MLMHead(LMHead):
    """`transform` is dense, activation and norm; `dense_bias` its bias; `bias` that of the decoder."""

    transform: bool = True
    activation: ActivationName = "gelu"
    dense_bias: bool = True
    bias: bool = True
    tied: bool = True

    def build(self, shape: Shape, norm: Norm) -> LMHeadModule:
        if not self.transform and shape.width != shape.embedding_size:
            raise SettingsError(
                f"A head without transform needs embeddings of the model's width {shape.width}, not {shape.embedding_size}."
            )
        return _MLMModule(self, shape, norm)


class _MLMModule(LMHeadModule):
    def __init__(self, settings: MLMHead, shape: Shape, norm: Norm) -> None:
        super().__init__()
        transform = settings.transform
        self.dense = Linear(shape.width, shape.embedding_size, bias=settings.dense_bias) if transform else None
        self.norm = norm.build(shape.embedding_size) if transform else None
        self.activate = activation(settings.activation)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size)) if settings.bias else None
        if not settings.tied:  # stored as `decoder.weight`, though the method `decoder` has the name
            self._modules["decoder"] = Linear(shape.embedding_size, shape.vocab_size, bias=False)

    def features(self, hidden: Tensor) -> Tensor:
        if self.dense is None or self.norm is None:
            return hidden
        y: Tensor = self.norm(self.activate(self.dense(hidden)))
        return y

    def init_identity(self) -> None:
        """The dense layer begins as a small multiple of the identity: small values pass the activation almost in a
        line, and the norm makes up for the size."""
        if self.dense is not None and self.dense.in_features == self.dense.out_features:
            nn.init.eye_(self.dense.weight).data.mul_(STRAIGHT)

    def decoder(self, encoder: HasTokenEmbeddings) -> tuple[Tensor, Tensor | None]:
        own = self._modules.get("decoder")
        return (own.weight if isinstance(own, Linear) else encoder.token_embeddings), self.bias
