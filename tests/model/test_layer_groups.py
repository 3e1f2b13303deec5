"""Layers that share their weights: counted, stored and updated once, applied several times; what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.adapt import Adaptation, inject
from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.checks.formats import random_model
from encodery.encoders.dense import first_layers
from encodery.model.checkpoint import read_tensors
from encodery.model.conversion import exportable_format
from encodery.model.count import flops_per_token, num_parameters
from encodery.model.format_types import SpecialTokenIds
from encodery.model.load import load_model, save_model
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.runtimes.kind import Runtime
from encodery.runtimes.native import LIBRARY
from encodery.surgery.grow import Grow
from encodery.train.hooks.sub_models import SubModels
from encodery.train.scaling_rules import model_for_size

TABLE: dict[str, Any] = {
    "width": 32,
    "depth": 4,
    "heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_length": 24,
    "layer_groups": [0, 0, 1, 1],
}
BLOCKS: dict[str, dict[str, Any]] = {"post": {}, "pre": {"block": {"is": "pre", "first_norm": False}, "ffn": "glu"}}
BATCH = Batch.from_sequences([[5, 9, 3, 7, 8, 2, 11], [4], [6, 1, 20, 29, 13, 14]])


def settings(**changes: Any) -> ModelSettings:
    return decode(ModelSettings, {**TABLE, **changes})


def built(**changes: Any) -> Model:
    return random_model(settings(**changes))


def separate(model: Model) -> Model:
    """The same model with a copy of the shared weights in each layer."""
    table = encode(model.settings)
    whole = Model(decode(ModelSettings, {**table, "layer_groups": [], "block": "post"})).eval()
    whole.load_state_dict({k: v for k, v in model.state_dict().items() if "blocks" not in k}, strict=False)
    for layer, block in enumerate(model.encoder.layer_blocks):
        whole.encoder.blocks[layer] = copy.deepcopy(block)
    return whole


def test_it_computes_what_equal_layers_compute() -> None:
    model = built()
    whole = separate(model)
    assert torch.equal(model(BATCH).hidden, whole(BATCH).hidden)
    model(BATCH).hidden.sum().backward()
    whole(BATCH).hidden.sum().backward()
    shared: Any = model.encoder.blocks[0]
    layers: Any = whole.encoder.blocks
    expected = layers[0].ffn.up.weight.grad + layers[1].ffn.up.weight.grad
    torch.testing.assert_close(shared.ffn.up.weight.grad, expected)


def test_weights_are_counted_once_and_operations_for_each_layer() -> None:
    shared, whole = settings(), settings(layer_groups=[])
    assert num_parameters(shared) == sum(p.numel() for p in built().parameters())
    blocks = num_parameters(whole) - num_parameters(whole.with_depth(0))
    assert num_parameters(whole) - num_parameters(shared) == blocks // 2
    assert flops_per_token(shared, 16) == flops_per_token(whole, 16)


@pytest.mark.parametrize("block", BLOCKS)
def test_weights_are_stored_once(block: str, tmp_path: Path) -> None:
    model = built(**BLOCKS[block])
    save_model(tmp_path / "model", model)
    stored = read_tensors(tmp_path / "model/model.safetensors")
    assert {name.split(".")[2] for name in stored if "blocks" in name} == {"0", "1"}
    loaded = load_model(tmp_path / "model").model
    assert loaded.settings == model.settings
    assert torch.equal(loaded(BATCH).hidden, model(BATCH).hidden)


def test_a_block_that_several_layers_share_has_its_first_norm() -> None:
    block: Any = built(**BLOCKS["pre"]).encoder.blocks[0]
    assert isinstance(block.attention_norm, torch.nn.LayerNorm)
    single: Any = built(**BLOCKS["pre"], layer_groups=[0, 1, 1, 1]).encoder.blocks[0]
    assert isinstance(single.attention_norm, torch.nn.Identity)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "packed_fp32"])
def test_engines_compute_the_same(runtime: str) -> None:
    if runtime == "packed_fp32" and not LIBRARY.is_file():
        pytest.skip("the packed engine was not compiled at install")
    for package in {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}.get(runtime, ()):
        pytest.importorskip(package)
    model = built()
    states = decode(Runtime, runtime).build(model).run(BATCH.ids.numpy(), BATCH.cu_seqlens.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(states, model(BATCH).hidden.numpy(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_first_layers_stay_shared(layers: int) -> None:
    model = built()
    shallow = first_layers(model, layers)
    assert shallow.settings.groups == (0, 0, 1)[:layers]
    assert shallow.state_dict().keys() == Model(shallow.settings).state_dict().keys()
    assert torch.equal(shallow(BATCH).hidden, model(BATCH, keep_layers=True).layers[layers])


def test_matrices_that_layers_share_are_adapted_together() -> None:
    model = built()
    with torch.no_grad():
        before = model(BATCH).hidden
    inject(model, decode(Adaptation, {"is": "lora"}), 0)
    torch.testing.assert_close(model(BATCH).hidden, before)
    with pytest.raises(SettingsError, match="share weights, so all or none can learn"):
        inject(built(), decode(Adaptation, {"is": "top_layers", "layers": 1}), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_groups": [0, 0, 1]}, "layer_groups has 3 entries, but depth = 4"),
        ({"layer_groups": [0, 2, 1, 1]}, "number the groups from 0 in the order of their first layers"),
        ({"layers": [{}, {"heads": 2}, {}, {}]}, "layers 0 and 1 share weights, but their sizes or the reach"),
        (
            {"mask": {"is": "pattern", "global_layers": [2]}},
            "layers 2 and 3 share weights, but their sizes or the reach",
        ),
        ({"extensions": [{"is": "adapter", "size": 4}]}, "none can have an adapter alone"),
    ],
)
def test_wrong_groups_are_refused_when_settings_are_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**change)


def test_what_needs_separate_layers_says_so(tmp_path: Path) -> None:
    model = built()
    save_model(tmp_path / "model", model)
    with pytest.raises(SettingsError, match="so their number stays the same"):
        Grow(depth=8).operate(load_model(tmp_path / "model"), torch.Generator())
    with pytest.raises(SettingsError, match="layers share their weights"):
        exportable_format(model.settings, SpecialTokenIds(), "bert")
    with pytest.raises(SettingsError, match=r"embeddings = 'plain' .needs 'factorized'"):
        exportable_format(model.settings, SpecialTokenIds(), "albert")
    uneven = settings(layer_groups=[0, 1, 1, 1], embeddings={"is": "factorized", "width": 8})
    with pytest.raises(SettingsError, match="needs neighbouring layers in groups of equal size"):
        exportable_format(uneven, SpecialTokenIds(), "albert")
    with pytest.raises(SettingsError, match="layers share weights"):
        SubModels().build(model)
    with pytest.raises(SettingsError, match="layer_groups lists 4 layers"):
        model_for_size("1M", model.settings)


def test_a_wider_model_grows_from_shared_layers(tmp_path: Path) -> None:
    model = built()
    save_model(tmp_path / "model", model)
    grown = Grow(intermediate_size=96).operate(load_model(tmp_path / "model"), torch.Generator().manual_seed(0))
    assert grown.model.settings.layer_groups == (0, 0, 1, 1)
    assert grown.metrics["drift"] < 1e-5
