"""Another loss on the last layer and on earlier ones, so that layers can be left out in use. arXiv:2402.14776 (2DMSE)

A few layers are sampled for each step. Each learns from the inner loss and from its divergence from the last layer's
embeddings. With `matryoshka` inside both directions are trained: fewer layers and fewer dimensions. In use, the setting
`encoder.layers` chooses how many layers are run. Shapes: B examples, C columns, K dimensions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from encodery.base.settings import check_at_least, check_interval
from encodery.embed.loss_inputs import LossInputs, VectorInputs, vector_inputs
from encodery.embed.losses._bases import WrapperLoss
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MatryoshkaLayers(WrapperLoss):
    """Use it where users of the model choose between quality and speed.

    `layers_per_step`: earlier layers that are sampled for a step; `weight`: of the loss of all of them together;
    `align_weight`: of the divergence from the last layer's embeddings, as distributions over their dimensions;
    `temperature`: of those.

        loss = {is = "matryoshka_layers", loss = "infonce"}
    """

    layers_per_step: int = 1
    weight: float = 1.0
    align_weight: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        check_at_least(self, 1, "layers_per_step")
        check_at_least(self, 0, "weight", "align_weight")
        check_interval(self, "0 < x", "temperature")

    @property
    def in_batch(self) -> bool:
        return self.loss.in_batch

    @property
    def needs_vectors(self) -> bool:
        return True

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        earlier = range(1, depth)
        return tuple(sorted(random.Random(seed).sample(earlier, min(self.layers_per_step, len(earlier)))))

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return {**self.loss.counts(columns, examples, target), "align": columns * examples}

    def terms(self, inputs: LossInputs) -> Mapping[str, LossTerm]:
        last = vector_inputs(inputs)
        terms = dict(self.loss.terms(last))
        learned = [name for name, term in terms.items() if term.weight]
        divergence = last.vectors[0].new_zeros(())
        fraction = 1 / max(len(last.layers), 1)
        for layer in last.layers:
            layer_terms = self.loss.terms(layer)
            for name in learned:
                whole = terms[name]
                total = whole.total + self.weight * fraction * layer_terms[name].total
                terms[name] = LossTerm(total, whole.count, whole.weight)
            divergence = divergence + fraction * self._divergence(layer, last)
        return {**terms, "align": LossTerm(divergence, last.num_columns * last.batch_size, self.align_weight)}

    def _divergence(self, layer: VectorInputs, last: VectorInputs) -> Tensor:
        total = layer.vectors[0].new_zeros(())
        for early, late in zip(layer.vectors, last.vectors, strict=True):
            student = F.log_softmax(early.float() / self.temperature, dim=1)
            teacher = F.log_softmax(late.detach().float() / self.temperature, dim=1)
            total = total + F.kl_div(student, teacher, reduction="sum", log_target=True)
        return total * self.temperature**2
