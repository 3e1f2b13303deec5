"""Mixture of experts: a router sends each token to the `top_k` of several feed-forward layers. arXiv:2101.03961

Differs from its `expert`: the layer has `experts` times the weights, and a token pays for `top_k` of them. With one
expert per token its output is scaled by the router's probability, as in the Switch Transformer; with several, by
probabilities that sum to one (arXiv:2006.16668). Differs from the paper: experts have no capacity, so no token is
dropped, which packed batches allow. The loss gets `balance_weight` times the balance E · Σ f p (f: fraction of the
tokens that an expert gets, p: its mean probability), added up over layers; it is 1 per layer if the load is even.
Shapes: T tokens, H width, I intermediate size of one expert, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least
from encodery.model.auxiliary import AuxiliarySublayer
from encodery.model.cost import Cost
from encodery.model.ffn import FFN
from encodery.model.shape import Shape
from encodery.model.weights import Linear

BALANCE = "balance"


@dataclass(frozen=True, kw_only=True)
class Mixture(FFN):
    """Use it for more weights at nearly the same operations per token; only pre-training trains the balance.

    `expert`: the feed-forward layer of each expert; `experts`: how many of them a layer has; `top_k`: how many read a
    token; `balance_weight`: weight of the balance in the loss.

        [model.ffn]
        is = "mixture"
        expert = "mlp"
        experts = 8
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"linear_layers", "cost", "bias_settings"})

    expert: FFN
    experts: int = 4
    top_k: int = 1
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        check_at_least(self, 1, "experts", "top_k")
        check_at_least(self, 0, "balance_weight")
        if self.top_k > self.experts:
            raise SettingsError(f"ffn.top_k = {self.top_k}: must be at most ffn.experts = {self.experts}.")

    def build(self, shape: Shape) -> nn.Module:
        return _MixtureModule(self, shape)

    def cost(self, shape: Shape) -> Cost:
        """The router, and the `top_k` experts that read a token."""
        router = 2.0 * shape.width * self.experts
        one = self.expert.cost(shape)
        # A token, its scores, and for each expert what that keeps and its output, which the gate multiplies.
        kept = shape.width + self.experts + self.top_k * (one.kept + shape.width)
        return Cost(router + self.top_k * one.flops, kept)

    def incompatibility(self, shape: Shape) -> str | None:
        """See `FFN`: that of the experts."""
        return self.expert.incompatibility(shape)


class _MixtureModule(AuxiliarySublayer):
    term_names: ClassVar[tuple[str, ...]] = (BALANCE,)

    def __init__(self, settings: Mixture, shape: Shape) -> None:
        super().__init__()
        self.top_k, self.balance_weight = settings.top_k, settings.balance_weight
        self.router = Linear(shape.width, settings.experts, bias=False)
        self.experts = nn.ModuleList(settings.expert.build(shape) for _ in range(settings.experts))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        gates, chosen = probabilities.topk(self.top_k, -1)
        if self.top_k > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        if self.training:
            self.add_term(BALANCE, balance(probabilities, chosen), self.balance_weight)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = (chosen == number).nonzero(as_tuple=True)
            output = expert(x[token]) * gates[token, place, None]
            y = y.index_add(0, token, output.to(y.dtype))
        return y


def balance(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """Return E · Σ f p, from the router's probabilities (T, E) and the chosen experts (T, K); 1 if both are even."""
    experts = probabilities.shape[1]
    load = chosen.flatten().bincount(minlength=experts) / max(chosen.numel(), 1)
    mean = probabilities.sum(0) / max(len(probabilities), 1)
    return experts * (load * mean).sum()
