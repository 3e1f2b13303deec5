"""Several adaptations at once, such as LoRA and biases: everything that one of them trains learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class CombinedAdaptation(Adaptation):
    """Use it to combine adaptations. `parts` are applied in this order and merged in the opposite one.

    adapt.is=combined adapt.parts='[{is="lora", rank=4}, {is="bitfit"}]'
    """

    parameter_efficient: ClassVar[bool] = False

    parts: tuple[Adaptation, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise SettingsError("parts = []: name at least one adaptation.")

    def apply(self, model: Model, generator: torch.Generator) -> None:
        learning = set[int]()
        for part in self.parts:
            part.apply(model, generator)
            learning |= {id(p) for p in model.parameters() if p.requires_grad}
        for p in model.parameters():
            p.requires_grad_(id(p) in learning)

    def merge(self, model: Model) -> None:
        for part in reversed(self.parts):
            part.merge(model)
