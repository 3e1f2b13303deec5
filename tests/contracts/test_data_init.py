"""Contract of beginnings: whatever parts lie in the folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
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
MODELS = {
    "plain": ModelSettings(**SIZES),
    "no head": ModelSettings(**SIZES, head=None),
    "no bias": ModelSettings(**SIZES, head=MLMHead(bias=False)),
    "narrow table": ModelSettings(**SIZES, embeddings=FactorizedEmbeddings(width=8)),
    "no positions": ModelSettings(**SIZES, positions=NoPositions()),
    "wide table": ModelSettings(**{**SIZES, "width": 128}),
}


def split(*documents: list[int]) -> Any:
    """As much of a split as counts need."""
    ids = np.concatenate([np.array(one, np.uint16) for one in documents]) if documents else np.zeros(0, np.uint16)
    offsets = np.cumsum([0, *map(len, documents)])
    return SimpleNamespace(shards=[ids] if len(ids) else [], starts=np.array([0, len(ids)]), offsets=offsets)


TEXT = split(*([5 + (start * 7 + n * n) % 40 for n in range(30)] for start in range(20)))


def fill(name: str, model: Model, text: Any, seed: int) -> str:
    return find_part(DataInit, name)().apply(model, text, torch.Generator().manual_seed(seed))


def begun(name: str, settings: ModelSettings, text: Any, seed: int = 1) -> Model:
    model = build_model(settings, seed=3)
    fill(name, model, text, seed)
    return model


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", part_names(DataInit))
def test_what_every_beginning_promises(name: str, settings: ModelSettings) -> None:
    part = find_part(DataInit, name)()
    assert decode(DataInit, encode(part)) == part
    first, second, drawn = begun(name, settings, TEXT), begun(name, settings, TEXT), build_model(settings, seed=3)
    for mine, theirs, before in zip(first.parameters(), second.parameters(), drawn.parameters(), strict=True):
        assert torch.isfinite(mine).all()
        assert mine.shape == before.shape
        assert torch.equal(mine, theirs), "equal seeds, equal weights"
    said = fill(name, drawn, TEXT, 1)
    assert said in part_names(DataInit)
    assert all(map(torch.equal, begun(said, settings, TEXT).parameters(), first.parameters())), "it is what it says"
    drawn = build_model(settings, seed=3)
    assert torch.equal(first.encoder.token_embeddings[:5], drawn.encoder.token_embeddings[:5]), (
        "tokens never seen stay as drawn"
    )


@pytest.mark.parametrize(
    "text", [split(), split([7]), split([7], [8]), split([7, 7])], ids=["none", "1", "1+1", "same"]
)
@pytest.mark.parametrize("name", part_names(DataInit))
def test_next_to_no_text_is_enough(name: str, text: Any) -> None:
    model = begun(name, MODELS["plain"], text)
    assert all(torch.isfinite(p).all() for p in model.parameters())
