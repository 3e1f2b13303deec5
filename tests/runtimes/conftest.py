"""Models on which runtimes are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings


@pytest.fixture
def randomised_model() -> Callable[[ModelSettings], Model]:
    """`randomised_model(settings)`: a model whose biases are not zero and whose norms are not one."""

    def make(settings: ModelSettings) -> Model:
        model = build_model(settings, 5)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                std = 0.2 if "norm" in name or name.endswith("bias") else 0.05
                weight.add_(torch.randn(weight.shape, generator=generator) * std)
        return model

    return make
