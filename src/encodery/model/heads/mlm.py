"""Masked-language-model head: dense, activation, norm, then a decoder tied to the word table. arXiv:1810.04805

Shapes: M chosen rows, H width, E embedding width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.heads import HasWords, Head, HeadModule
from encodery.model.norms import Norm
from encodery.model.shape import Shape
from encodery.model.weights import ActivationName, Linear, activation

STRAIGHT = 0.2  # of the identity


@dataclass(frozen=True, kw_only=True)
class MLM(Head):
    """`transform` is dense, activation and norm; `dense_bias` its bias; `bias` that of the decoder."""

    transform: bool = True
    activation: ActivationName = "gelu"
    dense_bias: bool = True
    bias: bool = True
    tied: bool = True

    def build(self, shape: Shape, norm: Norm) -> HeadModule:
        if not self.transform and shape.width != shape.embedding:
            raise SettingsError(
                f"A head without transform needs embeddings of the model's width {shape.width}, not {shape.embedding}."
            )
        return _MLMModule(self, shape, norm)


class _MLMModule(HeadModule):
    def __init__(self, settings: MLM, shape: Shape, norm: Norm) -> None:
        super().__init__()
        transform = settings.transform
        self.dense = Linear(shape.width, shape.embedding, bias=settings.dense_bias) if transform else None
        self.norm = norm.build(shape.embedding) if transform else None
        self.activate = activation(settings.activation)
        self.bias = nn.Parameter(torch.zeros(shape.vocab)) if settings.bias else None
        if not settings.tied:  # stored as `decoder.weight`, though the method `decoder` has the name
            self._modules["decoder"] = Linear(shape.embedding, shape.vocab, bias=False)

    def features(self, rows: Tensor) -> Tensor:
        if self.dense is None or self.norm is None:
            return rows
        y: Tensor = self.norm(self.activate(self.dense(rows)))
        return y

    def straight(self) -> None:
        """The dense layer begins as a small multiple of the identity: small values pass the activation almost in a
        line, and the norm makes up for the size."""
        if self.dense is not None and self.dense.in_features == self.dense.out_features:
            nn.init.eye_(self.dense.weight).data.mul_(STRAIGHT)

    def decoder(self, encoder: HasWords) -> tuple[Tensor, Tensor | None]:
        own = self._modules.get("decoder")
        return (own.weight if isinstance(own, Linear) else encoder.words), self.bias
