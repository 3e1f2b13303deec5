"""What the model's tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from encodery.model.conversion import exportable_format, to_checkpoint
from encodery.model.format_types import SpecialTokenIds
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings

SETTINGS = ModelSettings(width=16, depth=2, heads=2, vocab_size=64, max_length=40, type_vocab_size=2)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Uninitialised memory is filled with NaN, so that reading what nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model(SETTINGS, 3).eval()


@pytest.fixture
def foreign(model: Model, tmp_path: Path) -> Path:
    """The same model as a Hugging Face folder."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    door = exportable_format(model.settings, SpecialTokenIds(pad=0))
    config = door.write_config(model.settings, SpecialTokenIds(pad=0))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(to_checkpoint(door, config, model, None), folder / "model.safetensors")
    return folder
