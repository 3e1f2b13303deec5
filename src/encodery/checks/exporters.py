"""Checks of exporters, each on a stored model of two layers with a WordPiece tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.export import Exporter
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.positions.alibi import ALiBi
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

SETTINGS = ModelSettings(width=16, depth=2, heads=2, vocab_size=192, max_length=40)
TEXT = "a masked language model predicts words that were masked in a text of many words"


def example(folder: Path) -> LoadedModel:
    """Store a random model in `folder` and load it."""
    tokenizer = Tokenizer(Wordpiece(min_frequency=1).train([TEXT] * 3, 100))
    tokenizer.set_template()
    tokenizer.save(folder / "tokenizer")
    save_model(folder / "model", build_model(SETTINGS, 1), folder / "tokenizer", metrics={"heldout_loss": 2.5})
    return load_model(folder / "model")


def check_settings_round_trip(part: Exporter) -> None:
    """The part is what its settings decode to."""
    assert decode(Exporter, encode(part)) == part


def check_artifact(part: Exporter) -> None:
    """The result is a complete artifact of kind "export", whose parent is the model and which has the metrics."""
    with tempfile.TemporaryDirectory() as name:
        loaded = example(Path(name))
        result = part.write(loaded, Path(name) / "out")
        manifest = result.artifact.manifest
        assert manifest.kind == "export", f"the artifact is of kind '{manifest.kind}'"
        assert loaded.artifact is not None
        assert manifest.parents["model"]["fingerprint"] == loaded.artifact.manifest.fingerprint
        assert manifest.metrics == result.metrics
        assert result.format, "the format has no name"
        result.artifact.verify()


def check_model_is_not_modified(part: Exporter) -> None:
    """The weights of the exported model stay as they are."""
    with tempfile.TemporaryDirectory() as name:
        loaded = example(Path(name))
        before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
        part.write(loaded, Path(name) / "out")
        changed = [key for key, tensor in loaded.model.state_dict().items() if not torch.equal(before[key], tensor)]
        assert not changed, f"changed: {', '.join(changed)}"


def check_existing_folders(part: Exporter) -> None:
    """A folder that exists raises `InputError`, unless it is to be overwritten."""
    with tempfile.TemporaryDirectory() as name:
        loaded, folder = example(Path(name)), Path(name) / "out"
        part.write(loaded, folder)
        assert "already exists" in raised_message(InputError, lambda: part.write(loaded, folder))
        part.write(loaded, folder, overwrite=True).artifact.verify()


def check_inexpressible_settings(part: Exporter) -> None:
    """A model that the format cannot express raises `SettingsError` naming the setting, and no folder is left."""
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=64, positions=ALiBi())
    with tempfile.TemporaryDirectory() as name:
        loaded = LoadedModel(Path(name), build_model(settings, 0))
        message = raised_message(SettingsError, lambda: part.write(loaded, Path(name) / "out"))
        assert "positions = 'alibi'" in message, f"'{message}' does not name the setting"
        assert not list(Path(name).iterdir()), "files were left behind"
