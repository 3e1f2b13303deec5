"""Positions by relative distance in a model: gradients, weights of each layer, memory, and what is refused when."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.checks.exporters import example
from encodery.export.hf import HFExporter
from encodery.model.count import activation_bytes
from encodery.model.load import LoadedModel
from encodery.model.network import Model, build_model
from encodery.model.positions import Positions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Layout
from encodery.runtimes.supported import require_supported
from encodery.surgery.lengthen import Lengthen
from encodery.surgery.select_layers import SelectLayers

BASE = {"width": 12, "depth": 2, "heads": 3, "intermediate_size": 10, "vocab_size": 20, "max_length": 40}
BIAS = {"is": "relative_bias", "buckets": 4, "max_distance": 4}
OWN_BIAS = {**BIAS, "per_layer": True}
DISENTANGLED = {"is": "disentangled", "buckets": 4, "max_distance": 6, "norm": "layer"}
OWN = {**DISENTANGLED, "shared_projections": False, "norm": None}
BATCH = Batch.from_sequences([[1, 2, 3, 4, 5, 6, 7], [8, 9, 3], [2]])


def settings(positions: Any, **changes: Any) -> ModelSettings:
    return decode(ModelSettings, {**BASE, "init": {"is": "normal", "std": 0.4}, "positions": positions, **changes})


def model(positions: Any, **changes: Any) -> Model:
    return build_model(settings(positions, **changes), seed=3).double()


@pytest.mark.parametrize(
    "positions", [BIAS, OWN_BIAS, DISENTANGLED, OWN, {"is": "sum", "of": ["learned", BIAS, DISENTANGLED]}], ids=str
)
def test_gradients_are_those_of_differences(positions: Any) -> None:
    net = model(positions)
    weights = {name: p for name, p in net.named_parameters() if name.startswith("encoder.positions.")}

    def hidden(*values: Tensor) -> Tensor:
        output: Tensor = functional_call(net, dict(zip(weights, values, strict=True)), (BATCH,)).hidden
        return output

    torch.autograd.gradcheck(hidden, tuple(weights.values()), fast_mode=True)


@pytest.mark.parametrize("positions", [OWN_BIAS, OWN], ids=["relative_bias", "disentangled"])
def test_each_layer_has_its_weights(positions: Any) -> None:
    """The weights of the second layer change the second layer only."""
    net = model(positions)
    before = net(BATCH, keep_layers=True).layers
    with torch.no_grad():
        if positions is OWN_BIAS:
            net.encoder.positions.table.weight[4:] += torch.randn(4, 3)
        else:
            net.encoder.positions.keys[1].weight.neg_()
    after = net(BATCH, keep_layers=True).layers
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_a_learned_bias_of_a_batch_that_is_read_again_is_the_current_one() -> None:
    """Held-out batches keep their layout between steps."""
    net = model(BIAS)
    with torch.no_grad():
        before = net(BATCH).hidden
        net.encoder.positions.table.weight.normal_()
        after = net(BATCH).hidden
    assert not torch.allclose(before, after)
    fresh = net(Batch.from_sequences([[1, 2, 3, 4, 5, 6, 7], [8, 9, 3], [2]])).hidden
    assert torch.equal(after, fresh)


@pytest.mark.parametrize("length", [64, 700])
@pytest.mark.parametrize("positions", ["relative_bias", "disentangled", {"is": "sum", "of": ["learned", "alibi"]}])
def test_the_memory_is_that_of_the_estimate(positions: Any, length: int) -> None:
    own = settings(positions, width=64, heads=4, intermediate_size=256, max_length=800, head=None)
    net, batch = build_model(own), Batch.from_sequences([[1] * length] * (1 + 2048 // length))
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(batch)
    measured = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    assert activation_bytes(own, batch.tokens, length) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("positions", "changes", "message"),
    [
        (BIAS, {"attention": "linear"}, "attention = 'linear': has no scores"),
        (DISENTANGLED, {"attention": "linear"}, "attention = 'linear': has no scores"),
        ({"is": "sum", "of": ["learned", BIAS]}, {"attention": "linear"}, "attention = 'linear': has no scores"),
        (
            BIAS,
            {"layers": [{}, {"heads": 2}]},
            "positions = 'relative_bias': has numbers for 3 heads, and a layer has 2",
        ),
        ({"is": "sum", "of": [OWN]}, {"layers": [{}, {"heads": 2}]}, "its part 'disentangled' has projections for 3"),
        (OWN_BIAS, {"layer_groups": [0, 0]}, "positions = 'relative_bias': has weights for each layer"),
        (OWN, {"decoder": {}}, "positions = 'disentangled': has weights for each layer"),
        ({"is": "sum", "of": []}, {}, "of = []"),
        ({"is": "sum", "of": [DISENTANGLED, OWN]}, {}, "both of the kind 'relative'"),
        ({"is": "sum", "of": ["rotary", "rotary"]}, {}, "both of the kind 'rotation'"),
        ({"is": "relative_bias", "buckets": 5}, {}, "buckets = 5: must be even"),
        ({"is": "relative_bias", "max_distance": 8}, {}, "max_distance = 8: must be more than the 8"),
        ({"is": "disentangled", "max_distance": 100}, {}, "max_distance = 100: must be at least 130"),
        ({"is": "disentangled", "products": []}, {}, "give c2p, p2c or both"),
    ],
)
def test_refused_when_settings_are_read(positions: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(positions, **changes)
    assert message in str(refused.value)


@pytest.mark.parametrize("positions", [BIAS, DISENTANGLED, {"is": "sum", "of": ["learned", BIAS]}])
def test_refused_where_it_cannot_be_computed(positions: Any, tmp_path: Any) -> None:
    """Engines of fixed operations and formats of other libraries name the part; left-out tokens are refused."""
    own = settings(positions)
    name = positions["is"]
    with pytest.raises(SettingsError, match=f"positions = '{name}': packed_fp32 supports only .* Use the runtime"):
        require_supported(own, "packed_fp32", ["gelu"])
    loaded = example(tmp_path)
    other = dataclasses.replace(loaded, model=build_model(own))
    with pytest.raises(SettingsError, match=f"positions = '{name}'"):
        HFExporter().write(other, tmp_path / "out")
    gaps = Layout(BATCH.layout.cu_seqlens, 7, 11, text_positions=torch.arange(11) % 7)
    module, shape = decode(Positions, positions).build(own.shape), own.layer_shapes[0]
    with pytest.raises(SettingsError, match="no token of a sequence can be left out"):
        module.bias(gaps, shape)
        module.relative_terms(lambda x: x, gaps, shape)


def test_surgeries_that_would_break_the_positions_are_refused(tmp_path: Any) -> None:
    loaded = example(tmp_path)

    def stored(positions: Any) -> LoadedModel:
        return dataclasses.replace(loaded, model=build_model(settings(positions)))

    generator = torch.Generator()
    for positions in (OWN_BIAS, {"is": "sum", "of": [OWN]}):
        with pytest.raises(SettingsError, match="has weights for each layer"):
            SelectLayers(layers=(0,)).operate(stored(positions), generator)
        with pytest.raises(SettingsError, match="has weights for each of the 2 layers"):
            stored(positions).model.settings.with_depth(1)
    assert SelectLayers(layers=(0,)).operate(stored(BIAS), generator).model.settings.depth == 1
    assert Lengthen(max_length=60).operate(stored(BIAS), generator).model.settings.max_length == 60
    with pytest.raises(SettingsError, match=r"positions = 'sum': the size of parts\.0\.table\.weight"):
        Lengthen(max_length=60).operate(stored({"is": "sum", "of": ["learned", BIAS]}), generator)
