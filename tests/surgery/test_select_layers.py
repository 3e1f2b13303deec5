"""Selected layers: they and the other weights are those of the larger model; masks must keep their rhythm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.cli.__main__ import run
from encodery.model.layer_sizes import LayerSizes
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import SurgeryResult
from encodery.surgery.select_layers import SelectLayers
from encodery.tokens.tokenizer import Tokenizer

SIZES: dict[str, Any] = {"width": 16, "depth": 5, "heads": 2, "vocab_size": 40, "max_length": 32}


def made(folder: Path, **settings: Any) -> LoadedModel:
    save_model(folder / "model", build_model(ModelSettings(**{**SIZES, **settings}), 2))
    return load_model(folder / "model")


def operate(loaded: LoadedModel, *layers: int) -> SurgeryResult:
    return SelectLayers(layers=layers).operate(loaded, torch.Generator())


def test_the_selected_layers_compute_what_they_did(tmp_path: Path) -> None:
    loaded = made(tmp_path)
    small = operate(loaded, 1, 4).model
    assert small.settings.depth == 2
    batch = Batch.from_sequences([[5, 6, 7], [8, 9]])
    whole = loaded.model.encoder
    whole.groups = (1, 4)
    assert torch.equal(small(batch).hidden, loaded.model(batch).hidden)
    assert torch.equal(small.mlm_head.features(torch.ones(1, 16)), loaded.model.mlm_head.features(torch.ones(1, 16)))


def test_every_second_layer_by_default_and_uneven_sizes_stay_with_their_layer(tmp_path: Path) -> None:
    sizes = tuple(LayerSizes(intermediate_size=size) for size in (8, 16, 24, 32, 40))
    result = operate(made(tmp_path, layers=sizes))
    assert result.metrics["depth"] == 3
    assert [size.intermediate_size for size in result.model.settings.layers] == [8, 24, 40]


@pytest.mark.parametrize(
    ("layers", "message"),
    [((1, 0), "ascending"), ((0, 0), "different"), ((-1,), "from 0 on"), ((0, 5), "has 5 layers")],
)
def test_layers_that_the_model_does_not_have(layers: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        operate(made(tmp_path), *layers)


def test_layers_that_share_their_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="share weights"):
        operate(made(tmp_path, layer_groups=(0, 0, 0, 1, 1)), 0, 3)


def test_local_layers_stay_local(tmp_path: Path) -> None:
    loaded = made(tmp_path, mask=AlternatingMask(size=4, every=2))
    assert operate(loaded, 0, 1, 4).model.settings.depth == 3
    with pytest.raises(SettingsError, match="another window"):
        operate(loaded, 0, 2)


def test_on_the_command_line(
    tmp_path: Path, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> None:
    model = small_model(tmp_path, word_tokenizer(["red", "blue"]), max_length=16)
    command = ["model", "edit", str(model), "--surgery", "select_layers", "--out", str(tmp_path / "small")]
    assert run([*command, "layers=[1]"]) == 0
    assert load_model(tmp_path / "small").model.settings.depth == 1
