"""Head of replaced-token detection: dense layer, activation, one score for each token. arXiv:2003.10555

Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.model.extra_heads import ExtraHead, ExtraHeadModule
from encodery.model.norms import Norm
from encodery.model.shape import Layout, Shape
from encodery.model.weights import ActivationName, Linear, activation


@dataclass(frozen=True, kw_only=True)
class ReplacedTokenHead(ExtraHead):
    """Use it with the objective `replaced_tokens`: a score above 0 says that a token was replaced.

    [model]
    head = "none"
    extra_heads = ["replaced_tokens"]
    """

    activation: ActivationName = "gelu"

    def build(self, shape: Shape, norm: Norm) -> ExtraHeadModule:
        return _ReplacedTokenModule(self, shape)

    def fraction(self, length: float) -> float:
        return 1.0


class _ReplacedTokenModule(ExtraHeadModule):
    def __init__(self, settings: ReplacedTokenHead, shape: Shape) -> None:
        super().__init__()
        self.dense = Linear(shape.width, shape.width, bias=True)
        self.activate = activation(settings.activation)
        self.score = Linear(shape.width, 1, bias=True)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        scores: Tensor = self.score(self.activate(self.dense(hidden)))
        return scores.squeeze(1)
