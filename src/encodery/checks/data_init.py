"""Checks of data-dependent initialisation, on small models and made-up texts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import Model, build_model
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.train.data_init import DataInit

SIZES: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 60, "max_length": 16}


def example_models() -> dict[str, ModelSettings]:
    """Return models with and without the parts that an initialisation may need."""
    return {
        "plain": ModelSettings(**SIZES),
        "no head": ModelSettings(**SIZES, head=None),
        "no bias": ModelSettings(**SIZES, head=MLMHead(bias=False)),
        "narrow embeddings": ModelSettings(**SIZES, embeddings=FactorizedEmbeddings(width=8)),
        "no positions": ModelSettings(**SIZES, positions=NoPositions()),
        "more width than tokens": ModelSettings(**{**SIZES, "width": 128}),
    }


def example_split(*documents: list[int]) -> Any:
    """Return as much of a token split as counting needs."""
    ids = np.concatenate([np.array(one, np.uint16) for one in documents]) if documents else np.zeros(0, np.uint16)
    offsets = np.cumsum([0, *map(len, documents)])
    return SimpleNamespace(shards=[ids] if len(ids) else [], starts=np.array([0, len(ids)]), offsets=offsets)


def example_text() -> Any:
    """Return a split of twenty documents over forty tokens."""
    return example_split(*([5 + (start * 7 + n * n) % 40 for n in range(30)] for start in range(20)))


def initialised(part: DataInit, settings: ModelSettings, split: Any) -> tuple[Model, str]:
    """Return a model after the initialisation, and the name that `apply` returned."""
    model = build_model(settings, seed=3)
    used = part.apply(model, split, torch.Generator().manual_seed(1))
    return model, used


def check_settings_round_trip(part: DataInit) -> None:
    """The part is what its settings decode to."""
    assert decode(DataInit, encode(part)) == part


def check_finite_and_repeatable(part: DataInit) -> None:
    """Weights are finite, keep their shapes, and are equal for equal seeds."""
    for name, settings in example_models().items():
        first, second = (initialised(part, settings, example_text())[0] for _ in range(2))
        random = build_model(settings, seed=3)
        for one, other, before in zip(first.parameters(), second.parameters(), random.parameters(), strict=True):
            assert torch.isfinite(one).all(), f"{name}: a weight is not finite"
            assert one.shape == before.shape, f"{name}: a shape changed"
            assert torch.equal(one, other), f"{name}: equal seeds gave different weights"


def check_returned_name(part: DataInit) -> None:
    """`apply` returns the name of a part that gives the same weights."""
    for name, settings in example_models().items():
        model, used = initialised(part, settings, example_text())
        assert used in part_names(DataInit), f"{name}: there is no part '{used}'"
        same, _ = initialised(find_part(DataInit, used)(), settings, example_text())
        equal = map(torch.equal, model.parameters(), same.parameters())
        assert all(equal), f"{name}: the weights are not those of '{used}'"


def check_unseen_tokens(part: DataInit) -> None:
    """Tokens that never occur keep their random embeddings."""
    for name, settings in example_models().items():
        model, _ = initialised(part, settings, example_text())
        before = build_model(settings, seed=3).encoder.token_embeddings[:5]
        assert torch.equal(model.encoder.token_embeddings[:5], before), f"{name}: an unseen token changed"


def check_tiny_texts(part: DataInit) -> None:
    """No text, and texts of one or two tokens, leave finite weights."""
    for split in (example_split(), example_split([7]), example_split([7], [8]), example_split([7, 7])):
        model, _ = initialised(part, example_models()["plain"], split)
        assert all(torch.isfinite(p).all() for p in model.parameters()), "a weight is not finite"
