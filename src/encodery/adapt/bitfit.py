"""BitFit: only biases learn, those of norms too. arXiv:2106.10199

Differs from full training: under a thousandth of the weights. Nothing is inserted, so there is nothing to fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class BitFit(Adaptation):
    """`norms`: the scales of norms learn as well."""

    norms: bool = False

    def apply(self, model: Model, generator: torch.Generator) -> None:
        model.requires_grad_(False)
        biases = [p for name, p in model.encoder.named_parameters() if name.endswith("bias")]
        if not biases:
            raise SettingsError("bitfit: this model has no biases (attention.bias, ffn.bias and norm.bias are false).")
        scales = [p for name, p in model.encoder.named_parameters() if name.endswith("norm.weight")]
        for p in biases + (scales if self.norms else []):
            p.requires_grad_(True)
