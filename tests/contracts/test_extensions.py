"""Contract of extensions: whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model import count
from encodery.model.conversion import exportable_format
from encodery.model.extensions import ModelExtension
from encodery.model.format_types import SpecialTokenIds
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

TINY = ModelSettings(width=16, depth=2, heads=2, intermediate_size=24, vocab_size=60, max_length=12)
SEQUENCES = [[1, 2, 3], [4] * 12, [5], [6, 7, 8, 9]]


@pytest.mark.parametrize("name", part_names(ModelExtension))
def test_what_every_insert_promises(name: str, tmp_path: Path) -> None:
    part = find_part(ModelExtension, name)()
    assert decode(ModelExtension, encode(part)) == part
    settings = dataclasses.replace(TINY, extensions=(part,))
    model = build_model(settings, seed=4).eval()
    assert count.num_parameters(settings) == sum(p.numel() for p in model.parameters()) > count.num_parameters(TINY)
    assert not any(p.isnan().any() for p in model.parameters())
    output = model(Batch.from_sequences(SEQUENCES), keep_layers=True)
    assert [tuple(x.shape) for x in (output.hidden, *output.layers)] == [(20, 16)] * 4
    apart = torch.cat([model(Batch.from_sequences([sequence])).hidden for sequence in SEQUENCES])
    torch.testing.assert_close(output.hidden, apart, atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert loaded.settings == settings
    assert torch.equal(loaded(Batch.from_sequences(SEQUENCES)).hidden, output.hidden)
    with pytest.raises(SettingsError, match=f"extensions: {name}"):
        exportable_format(settings, SpecialTokenIds())


@pytest.mark.parametrize("name", part_names(ModelExtension))
def test_adding_equals_building_with_it(name: str) -> None:
    part = find_part(ModelExtension, name)()
    model = build_model(TINY, seed=4)
    inserted = model.add_extension(part, torch.Generator().manual_seed(0))
    assert inserted.sublayer_adapters or inserted.sequence_transform is not None
    built = build_model(dataclasses.replace(TINY, extensions=(part,)), seed=4)
    assert model.settings == built.settings
    assert model.state_dict().keys() == built.state_dict().keys()
    with pytest.raises(SettingsError, match="already occupied"):
        model.add_extension(part, torch.Generator())
