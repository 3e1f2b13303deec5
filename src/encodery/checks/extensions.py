"""Checks of extensions of a model, each on a small encoder."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.model.conversion import exportable_format
from encodery.model.count import num_parameters
from encodery.model.extensions import ModelExtension
from encodery.model.format_types import SpecialTokenIds
from encodery.model.load import load_model, save_model
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SMALL = ModelSettings(width=16, depth=2, heads=2, intermediate_size=24, vocab_size=60, max_length=12)
SEQUENCES = [[1, 2, 3], [4] * 12, [5], [6, 7, 8, 9]]


def example(part: ModelExtension) -> Model:
    """Return a small model that was built with the extension."""
    return build_model(dataclasses.replace(SMALL, extensions=(part,)), seed=4).eval()


def check_settings_round_trip(part: ModelExtension) -> None:
    """The part is what its settings decode to."""
    assert decode(ModelExtension, encode(part)) == part


def check_parameters_are_counted_and_initialised(part: ModelExtension) -> None:
    """The extension adds parameters, which are counted and have values."""
    model = example(part)
    assert num_parameters(model.settings) == sum(p.numel() for p in model.parameters()) > num_parameters(SMALL)
    assert not any(p.isnan().any() for p in model.parameters())


def check_packed_equals_alone(part: ModelExtension) -> None:
    """The output has one state per real token, and sequences of a packed batch get the states that they get alone."""
    model = example(part)
    output = model(Batch.from_sequences(SEQUENCES), keep_layers=True)
    assert output.layers is not None
    assert [tuple(x.shape) for x in (output.hidden, *output.layers)] == [(20, 16)] * 4
    alone = torch.cat([model(Batch.from_sequences([sequence])).hidden for sequence in SEQUENCES])
    torch.testing.assert_close(output.hidden, alone, atol=1e-5, rtol=1e-5)


def check_saving(part: ModelExtension) -> None:
    """A model with the extension is an ordinary artifact."""
    model, batch = example(part), Batch.from_sequences(SEQUENCES)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model)
        loaded = load_model(Path(folder) / "model").model
    assert loaded.settings == model.settings
    assert torch.equal(loaded(batch).hidden, model(batch).hidden)


def check_no_checkpoint_format_takes_it(part: ModelExtension) -> None:
    """An export is refused by a message that names the extension."""
    message = raised_message(SettingsError, lambda: exportable_format(example(part).settings, SpecialTokenIds()))
    assert f"extensions: {name_of(part)}" in message


def check_adding_equals_building(part: ModelExtension) -> None:
    """`add_extension` gives the model that is built with the extension, and refuses a second one in its place."""
    model = build_model(SMALL, seed=4)
    modules = model.add_extension(part, torch.Generator().manual_seed(0))
    assert list(modules), "the extension has no modules"
    built = example(part)
    assert model.settings == built.settings
    assert model.state_dict().keys() == built.state_dict().keys()
    message = raised_message(SettingsError, lambda: model.add_extension(part, torch.Generator()))
    assert "already occupied" in message
