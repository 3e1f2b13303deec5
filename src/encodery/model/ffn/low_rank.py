"""Low rank: the matrices of a feed-forward layer are products of two narrow ones. arXiv:2310.10700 (PELA)

Differs from its `ffn`: `up` and `down` have R · (I + O) weights in place of I · O, and as many fewer operations.
`model edit --surgery low_rank` brings a trained model into this form. Differs from the paper, where other matrices have
factors too. Shapes: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from encodery.base.parts import name_of
from encodery.base.settings import check_at_least
from encodery.model.cost import Cost
from encodery.model.ffn import FFN
from encodery.model.shape import Shape
from encodery.model.weights import Linear, LinearLayer, Role

FACTORISED = ("up", "down")


@dataclass(frozen=True, kw_only=True)
class LowRankFFN(FFN):
    """Use it for a model with fewer weights and operations. `ffn`: the feed-forward layer whose matrices are
    factorised; `rank`: R of all of them.

        [model.ffn]
        is = "low_rank"
        ffn = "mlp"
        rank = 64
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"linear_layers", "bias_settings"})

    ffn: FFN
    rank: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rank")

    def build(self, shape: Shape) -> nn.Module:
        module = self.ffn.build(shape)
        for name in FACTORISED:
            layer = getattr(module, name)
            assert isinstance(layer, LinearLayer)
            setattr(module, name, _FactorisedLinear(layer, self.rank))
        return module

    def cost(self, shape: Shape) -> Cost:
        """That of the feed-forward layer with the factors in place of the matrices."""
        whole, flops, kept = self.ffn.cost(shape), 0.0, 0.0
        for layer in self._matrices(shape):
            flops += 2.0 * (self.rank * (layer.in_features + layer.out_features) - layer.weight.numel())
            kept += self.rank
        return Cost(whole.flops + flops, whole.kept + kept)

    def incompatibility(self, shape: Shape) -> str | None:
        """See `FFN`: a feed-forward layer of two matrices, and a rank that they can have."""
        reason = self.ffn.incompatibility(shape)
        if reason is not None:
            return reason
        matrices = self._matrices(shape)
        if len(matrices) < len(FACTORISED):
            return f"ffn.ffn = '{name_of(self.ffn)}' has no two matrices that could be factorised; use mlp or glu."
        largest = min(min(layer.in_features, layer.out_features) for layer in matrices)
        if self.rank > largest:
            return f"ffn.rank = {self.rank}: must be at most {largest}, the smaller size of the matrices."
        return None

    def _matrices(self, shape: Shape) -> list[LinearLayer]:
        """The layers that are factorised, without memory for their weights."""
        with torch.device("meta"):
            module = self.ffn.build(shape)
        layers = [getattr(module, name, None) for name in FACTORISED]
        return [layer for layer in layers if isinstance(layer, LinearLayer)]


class _FactorisedLinear(nn.Module):
    """x (T, I) → (T, O), through R numbers."""

    def __init__(self, layer: LinearLayer, rank: int) -> None:
        super().__init__()
        role: Role = layer.role
        self.first = Linear(layer.in_features, rank, bias=False)
        self.second = Linear(rank, layer.out_features, bias=layer.bias is not None, role=role)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y
