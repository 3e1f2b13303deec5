"""BitFit: only biases learn, those of norms included. arXiv:2106.10199

Differs from full training: under a thousandth of the weights learns. Nothing is inserted, so nothing must be merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class BitFit(Adaptation):
    """Use it for small data sets and models with biases. `norms`: the scales of norms learn too.

    encodery finetune classify rows.csv --model run --out tuned adapt=bitfit
    """

    norms: bool = False

    def apply(self, model: Model, generator: torch.Generator) -> None:
        model.requires_grad_(False)
        biases = [p for name, p in model.encoder.named_parameters() if name.endswith("bias")]
        if not biases:
            raise SettingsError("bitfit: this model has no biases (attention.bias, ffn.bias and norm.bias are false).")
        scales = [p for name, p in model.encoder.named_parameters() if name.endswith("norm.weight")]
        for p in biases + (scales if self.norms else []):
            p.requires_grad_(True)
