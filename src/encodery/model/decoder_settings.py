"""The settings of a decoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from encodery.base.settings import check_at_least
from encodery.model.heads import LMHead
from encodery.model.heads.mlm import MLMHead
from encodery.model.reach import Reach
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """Sizes of a decoder; its parts, width and heads are those of the model.

    `depth`: number of layers; `causal`: whether a token attends only to itself and the tokens before it; `memory`:
    whether the layers read a memory, which is the encoder's output in an encoder–decoder; `embedding_norm`: whether
    its input is normalised after positions are added; `head`: what predicts the next token from its output (null for
    none), by default the products with the token embeddings.

        [model.decoder]
        depth = 2
    """

    depth: int = 2
    causal: bool = True
    memory: bool = True
    embedding_norm: bool = False
    head: LMHead | None = field(default_factory=lambda: MLMHead(transform=False))

    def __post_init__(self) -> None:
        check_at_least(self, 1, "depth")

    def layer_shapes(self, model: Shape) -> list[Shape]:
        """The shape of each layer, in a model of this shape. Layers are numbered after the encoder's: parts that treat
        layer 0 differently mean the model's."""
        # Positions are added at the model's width, even if the embeddings have another one.
        shape = dataclasses.replace(model, embedding_size=model.width, reads_memory=self.memory)
        return [shape.for_layer(model.depth + layer, self.reach) for layer in range(self.depth)]

    @property
    def reach(self) -> Reach:
        """The reach of the layers among the decoder's own tokens."""
        return Reach(right=0) if self.causal else Reach()
