"""Layers of different sizes: what is built, counted, stored, computed by engines and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.adapt import Adaptation, inject
from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode, parse_overrides
from encodery.checks.formats import random_model
from encodery.encoders.dense import first_layers
from encodery.model.conversion import exportable_format
from encodery.model.format_types import SpecialTokenIds
from encodery.model.layer_sizes import LayerSizes
from encodery.model.load import load_model, save_model
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.runtimes.kind import Runtime
from encodery.surgery.grow import Grow

TABLE: dict[str, Any] = {
    "width": 32,
    "depth": 3,
    "heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_length": 24,
    "layers": [{"heads": 1, "intermediate_size": 40}, {"heads": 3}, {"intermediate_size": 8}],
}
BLOCKS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"block": {"is": "pre", "first_norm": False}, "ffn": "glu", "positions": "rotary"},
    "alibi": {"positions": "alibi"},
}
ABSENT = [{"heads": 0}, {"intermediate_size": 0}, {}]
BATCH = Batch.from_sequences([[5, 9, 3, 7, 8, 2, 11], [4], [6, 1, 20, 29, 13, 14]])


def settings(**changes: Any) -> ModelSettings:
    return decode(ModelSettings, {**TABLE, **changes})


def built(**changes: Any) -> Model:
    return random_model(settings(**changes))


def test_each_layer_has_its_sizes() -> None:
    blocks: Any = built().encoder.blocks
    assert [block.attention.qkv.weight.shape for block in blocks] == [(24, 32), (72, 32), (96, 32)]
    assert [block.ffn.up.weight.shape for block in blocks] == [(40, 32), (48, 32), (8, 32)]


def test_equal_sizes_are_the_same_model_as_none() -> None:
    sizes = [{"heads": 4, "intermediate_size": 48}] * 3
    one, other = built(layers=sizes), built(layers=[])
    assert torch.equal(one(BATCH).hidden, other(BATCH).hidden)


def test_a_layer_without_a_sublayer_is_one_whose_sublayer_adds_nothing() -> None:
    """In a pre-norm model; a post-norm one leaves the norm out too."""
    absent, whole = built(block="pre", layers=ABSENT), built(block="pre", layers=[])
    state = whole.state_dict()
    own = absent.state_dict()
    missing = {name for name in state if name not in own}
    assert {name.split(".")[3] for name in missing} == {"attention", "attention_norm", "ffn", "ffn_norm"}
    for name in state:
        if name in own:
            state[name] = own[name]
        elif ".out." in name or ".down." in name:
            state[name] = torch.zeros_like(state[name])
    whole.load_state_dict(state)
    torch.testing.assert_close(absent(BATCH).hidden, whole(BATCH).hidden)
    post: Any = built(layers=ABSENT).encoder.blocks
    assert [name for name, _ in post[0].named_parameters() if "attention" in name] == []


@pytest.mark.parametrize("layers", [TABLE["layers"], ABSENT], ids=["sizes", "absent"])
@pytest.mark.parametrize("block", BLOCKS)
def test_it_is_stored_with_its_sizes(block: str, layers: Any, tmp_path: Path) -> None:
    model = built(**BLOCKS[block], layers=layers)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert loaded.settings == model.settings
    assert torch.equal(loaded(BATCH).hidden, model(BATCH).hidden)
    assert decode(ModelSettings, encode(model.settings)) == model.settings


def test_sizes_can_be_written_on_the_command_line() -> None:
    table = parse_overrides(["depth=2", "layers=[{heads = 2}, {intermediate_size = 9}]"])
    assert decode(ModelSettings, table).layers == (LayerSizes(heads=2), LayerSizes(intermediate_size=9))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("layers", [TABLE["layers"], ABSENT], ids=["sizes", "absent"])
@pytest.mark.parametrize("block", ["post", "pre"])
def test_graphs_compute_the_same(block: str, layers: Any, runtime: str) -> None:
    for package in ("onnx", {"onnx": "onnxruntime"}.get(runtime, runtime)):
        pytest.importorskip(package)
    change = {**BLOCKS[block], "positions": "learned", "layers": layers}
    model = built(**change)
    ids, cu_seqlens = BATCH.ids.numpy(), BATCH.cu_seqlens.numpy()
    states = decode(Runtime, runtime).build(model).run(ids, cu_seqlens)
    with torch.no_grad():
        np.testing.assert_allclose(states, model(BATCH).hidden.numpy(), rtol=0, atol=2e-5)


def test_the_first_layers_keep_their_sizes() -> None:
    model = built()
    shallow = first_layers(model, 2)
    assert shallow.settings.layers == model.settings.layers[:2]
    assert torch.equal(shallow(BATCH).hidden, model(BATCH, keep_layers=True).layers[2])


@pytest.mark.parametrize("targets", [("query", "value"), ("out", "up", "down")])
def test_matrices_of_each_size_are_adapted(targets: tuple[str, ...]) -> None:
    model = built(layers=[{"heads": 1}, {"heads": 0}, {"intermediate_size": 0}])
    with torch.no_grad():
        before = model(BATCH).hidden
    inject(model, decode(Adaptation, {"is": "lora", "targets": list(targets)}), 0)
    torch.testing.assert_close(model(BATCH).hidden, before)
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [{}]}, r"layers has 1 entries, but depth = 3"),
        ({"layers": [{}, {}, {"heads": -1}]}, r"layers\[2\]: heads = -1"),
        ({"layers": [{}, {"heads": 0, "intermediate_size": 0}, {}]}, r"layers\[1\].*needs an attention or a feed"),
        ({"layers": [{}, {"head": 2}, {}]}, r"no setting 'head'. Did you mean 'heads'"),
        (
            {"layers": ABSENT, "extensions": [{"is": "adapter", "size": 4}]},
            "layer 0 has no attention sublayer: leave 'attention' out of sublayers",
        ),
    ],
)
def test_wrong_sizes_are_refused_when_settings_are_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**change)


def test_what_needs_equal_layers_says_so(tmp_path: Path) -> None:
    model = built()
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    with pytest.raises(SettingsError, match="its layers have different sizes"):
        Grow(width=64).operate(loaded, torch.Generator())
    with pytest.raises(SettingsError, match=r"depth = 4: model.layers is of 3 layers only"):
        model.settings.with_depth(4)
    with pytest.raises(SettingsError, match="layers: sizes differ between layers"):
        exportable_format(model.settings, SpecialTokenIds())
