"""Adaptations: a model learns something new by a small change, while most of its weights stay as they are.

An adaptation is a setting of whatever trains (`adapt = "lora"`, `adapt.rank=16`), None where everything learns. The
training job calls, right after it has its model and before it makes an optimiser,

    begin(model, settings.adapt, seed)      # inserts modules, freezes what is not to learn

and saves `finished(model, settings.adapt)`, a copy in which everything that can be folded into ordinary weights is:
its outputs are equal to rounding, its `settings` and `state_dict` those of an ordinary model. What cannot be folded
(adapters, prompts) is written down in `model.settings.extensions` and belongs to the artifact like any other part.
A job that is rebuilt to be resumed begins in the same way; its checkpoint then fits by names.

What a task adds on top of the encoder is not the adaptation's: it learns always.
"""

from __future__ import annotations

import abc
import copy
from typing import ClassVar

import torch
from torch import nn

from encodery.base.machine import derive_seed
from encodery.base.parts import Part
from encodery.model.network import Model


class Adaptation(Part):
    """A small change that is learnt. `light`: whether only a small share of the weights learns."""

    parameter_efficient: ClassVar[bool] = True

    @abc.abstractmethod
    def apply(self, model: Model, generator: torch.Generator) -> None:
        """Insert what learns, started from `generator` (on the CPU), and freeze all else (`requires_grad`).

        Raises `SettingsError` where the model has no place for it.
        """

    def merge(self, model: Model) -> None:
        """Fold what `apply` inserted into ordinary weights, as far as that is exact."""


def inject(model: Model, adaptation: Adaptation | None, seed: int) -> None:
    """Make a model ready to learn under an adaptation; equal seeds start equally. None: everything learns."""
    if adaptation is not None:
        adaptation.apply(model, torch.Generator().manual_seed(derive_seed(seed, "adapt")))


def merge_and_unload(model: Model, adaptation: Adaptation | None) -> Model:
    """What is to be saved of a model that learnt under an adaptation: a merged copy, or the model itself under None."""
    if adaptation is None:
        return model
    model = copy.deepcopy(model)
    adaptation.merge(model)
    return model.requires_grad_(True)


def count_trainable(module: nn.Module) -> tuple[int, int]:
    """(how many weights learn, how many there are); tied ones count once."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
