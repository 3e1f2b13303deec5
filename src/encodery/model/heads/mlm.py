"""Masked-language-model head: dense layer, activation and norm, then a decoder. arXiv:1810.04805

The decoder's weight is the token embeddings if it is tied. Shapes: M positions, H width, E embedding size, V
vocabulary.
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

IDENTITY_SCALE = 0.2
"""The multiple of the identity with which `init_identity` fills the dense layer."""


@dataclass(frozen=True, kw_only=True)
class MLMHead(LMHead):
    """Use it to pre-train with masked tokens, to fill masks, and for sparse term weights over the vocabulary.

    `transform`: whether dense layer, activation and norm precede the decoder; `dense_bias`: whether the dense layer has
    a bias; `bias`: whether the decoder has one; `tied`: whether the decoder shares the token embeddings.

        [model.head]
        is = "mlm"
        tied = true
    """

    transform: bool = True
    activation: ActivationName = "gelu"
    dense_bias: bool = True
    bias: bool = True
    tied: bool = True

    def build(self, shape: Shape, norm: Norm) -> LMHeadModule:
        if not self.transform and shape.width != shape.embedding_size:
            raise SettingsError(
                f"head.transform = false: needs embeddings of the model's width {shape.width}, but theirs is "
                f"{shape.embedding_size}."
            )
        return _MLMHeadModule(self, shape, norm)


class _MLMHeadModule(LMHeadModule):
    def __init__(self, settings: MLMHead, shape: Shape, norm: Norm) -> None:
        super().__init__()
        transform = settings.transform
        self.dense = Linear(shape.width, shape.embedding_size, bias=settings.dense_bias) if transform else None
        self.norm = norm.build(shape.embedding_size) if transform else None
        self.activate = activation(settings.activation)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size)) if settings.bias else None
        if not settings.tied:  # Stored as `decoder.weight`, although the method `decoder` has that name.
            self._modules["decoder"] = Linear(shape.embedding_size, shape.vocab_size, bias=False)

    def features(self, hidden: Tensor) -> Tensor:
        if self.dense is None or self.norm is None:
            return hidden
        y: Tensor = self.norm(self.activate(self.dense(hidden)))
        return y

    def init_identity(self) -> None:
        """Fill the dense layer with a small multiple of the identity.

        The activation is nearly linear for small values, and the norm restores their size.
        """
        if self.dense is not None and self.dense.in_features == self.dense.out_features:
            nn.init.eye_(self.dense.weight).data.mul_(IDENTITY_SCALE)

    def decoder(self, encoder: HasTokenEmbeddings) -> tuple[Tensor, Tensor | None]:
        own = self._modules.get("decoder")
        return (own.weight if isinstance(own, Linear) else encoder.token_embeddings), self.bias
