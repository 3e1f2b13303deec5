"""Models for the runtimes to be compared on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings


@pytest.fixture
def livelier() -> Callable[[ModelSettings], Model]:
    """Makes a model whose biases and norms are no zeros and ones."""

    def make(settings: ModelSettings) -> Model:
        model = build_model(settings, 5)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                spread = 0.2 if "norm" in name or name.endswith("bias") else 0.05
                weight.add_(torch.randn(weight.shape, generator=generator) * spread)
        return model

    return make
