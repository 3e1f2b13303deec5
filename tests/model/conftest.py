"""Fixtures of the model's tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from encodery.model.conversion import exportable_format, to_checkpoint
from encodery.model.format_types import SpecialTokenIds
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings

SETTINGS = ModelSettings(width=16, depth=2, heads=2, vocab_size=64, max_length=40, type_vocab_size=2)


@pytest.fixture(autouse=True)
def _poison_all(_poisoned: None) -> None:
    """Every test of this folder sees NaN in uninitialised memory."""


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model(SETTINGS, 3).eval()


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    """The same model as a Hugging Face folder."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    checkpoint_format = exportable_format(model.settings, SpecialTokenIds(pad=0))
    config = checkpoint_format.write_config(model.settings, SpecialTokenIds(pad=0))
    (path / "config.json").write_text(json.dumps(config))
    save_file(to_checkpoint(checkpoint_format, config, model, None), path / "model.safetensors")
    return path
