"""Adaptations: a model learns a task by a small change, while most of its weights stay as they are.

An adaptation is a setting of every training job (`adapt=lora`, `adapt.rank=16`); None trains everything. The job calls
`inject(model, settings.adapt, seed)` after it has its model and before it makes an optimiser: modules are inserted, and
what must not learn is frozen. It saves `merge_and_unload(model, settings.adapt)`, a copy in which everything that can
be merged into ordinary weights is: its outputs are equal to rounding, its settings and state those of an ordinary
model. What cannot be merged (adapters, prompts) is listed in `model.settings.extensions` and belongs to the artifact.
A job that is rebuilt to be resumed injects in the same way; its checkpoint then fits by names.

The head that a task puts on the encoder is no part of the adaptation: it always learns.
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
    """Contract of an adaptation. `parameter_efficient`: only a small fraction of the weights learns."""

    parameter_efficient: ClassVar[bool] = True

    @abc.abstractmethod
    def apply(self, model: Model, generator: torch.Generator) -> None:
        """Insert what learns, initialised from `generator` (on the CPU), and freeze everything else.

        Raises `SettingsError` if the model has no place for it.
        """

    def merge(self, model: Model) -> None:
        """Merge what `apply` inserted into ordinary weights, as far as that is exact."""


def inject(model: Model, adaptation: Adaptation | None, seed: int) -> None:
    """Prepare a model to learn under an adaptation; equal seeds initialise equally. With None everything learns."""
    if adaptation is not None:
        adaptation.apply(model, torch.Generator().manual_seed(derive_seed(seed, "adapt")))


def merge_and_unload(model: Model, adaptation: Adaptation | None) -> Model:
    """Return what is to be saved of an adapted model: a merged copy, or with None the model itself."""
    if adaptation is None:
        return model
    model = copy.deepcopy(model)
    adaptation.merge(model)
    return model.requires_grad_(True)


def count_trainable(module: nn.Module) -> tuple[int, int]:
    """Return (number of weights that learn, number of all weights); tied weights count once."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
