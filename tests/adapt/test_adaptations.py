"""Properties of single adaptations."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from encodery.adapt import Adaptation, count_trainable, inject, merge_and_unload
from encodery.adapt._linear import AdaptedLinear
from encodery.base.errors import SettingsError, UnknownName
from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

TINY = ModelSettings(width=32, depth=3, heads=2, intermediate_size=64, vocab_size=90, max_length=24)
BATCH = Batch.from_sequences([[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11, 12, 13]])


def adapted(table: dict[str, Any], settings: ModelSettings = TINY) -> Model:
    model = build_model(settings, seed=1)
    inject(model, decode(Adaptation, table), seed=2)
    return model.eval()


def block_module(model: Model, name: str) -> Any:
    """The module `name` of the blocks."""
    return model.encoder.blocks.get_submodule(name)


def names(model: Model) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "table",
    [
        {"is": "lora", "targets": ["query", "key", "value", "out", "up", "down"], "dropout": 0.5},
        {"is": "lora", "rank": 64, "rank_stabilised": True},
        {"is": "dora", "targets": ["query", "out", "down"]},
        {"is": "ia3", "targets": ["query", "key", "value", "out", "up", "down"]},
        {"is": "adapters"},
        {"is": "adapters", "parallel": True, "sublayers": ["ffn"]},
        {"is": "binary_masks", "sparsity": 0.0},
        {"is": "bitfit"},
    ],
)
def test_injection_does_not_change_the_outputs(table: dict[str, Any]) -> None:
    before = build_model(TINY, seed=1).eval()
    torch.testing.assert_close(adapted(table)(BATCH).hidden, before(BATCH).hidden, atol=1e-5, rtol=1e-5)


def test_lora_learns_two_small_matrices_per_target() -> None:
    model = adapted({"is": "lora", "rank": 3, "targets": ["query", "down"], "first_layer": 1})
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    name_of = "encoder.blocks.{}.{}.factors.{}.{}".format
    assert shapes == {
        name: shape
        for layer in (1, 2)
        for name, shape in {
            name_of(layer, "attention.qkv", "query", "a"): (3, 32),
            name_of(layer, "attention.qkv", "query", "b"): (32, 3),
            name_of(layer, "ffn.down", "down", "a"): (3, 64),
            name_of(layer, "ffn.down", "down", "b"): (32, 3),
        }.items()
    }


def test_targets_change_their_own_outputs_only() -> None:
    part = decode(Adaptation, {"is": "lora", "rank": 3, "targets": ["key"]})
    model = build_model(TINY, seed=1)
    before = block_module(model, "0.attention.qkv").weight.detach().clone()
    inject(model, part, 0)
    factors = block_module(model, "0.attention.qkv").factors["key"]
    with torch.no_grad():
        factors.b.normal_()
    after = block_module(merge_and_unload(model, part), "0.attention.qkv").weight
    assert torch.equal(after[:32], before[:32])
    assert torch.equal(after[64:], before[64:])
    torch.testing.assert_close(after[32:64], before[32:64] + 16.0 / 3 * factors.b @ factors.a)


def test_dora_keeps_the_length_of_rows_if_only_the_direction_changes() -> None:
    part = decode(Adaptation, {"is": "dora", "targets": ["up"]})
    model = build_model(TINY, seed=1)
    before = block_module(model, "0.ffn.up").weight.detach().clone()
    inject(model, part, 0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".b"):
                p.normal_()
    after = block_module(merge_and_unload(model, part), "0.ffn.up").weight
    assert (after - before).norm() > 0.5 * before.norm()
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))


def test_masks_are_binary_and_their_gradient_passes_the_threshold() -> None:
    part = decode(Adaptation, {"is": "binary_masks", "sparsity": 0.3})
    model = build_model(TINY, seed=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inject(model, part, 0)
    merged = merge_and_unload(model, part)
    masked = total = 0
    for name, p in merged.named_parameters():
        kept = p == before[name]
        assert (kept | (p == 0)).all(), name
        masked, total = (
            masked + int((~kept).sum()),
            total + (p.numel() if name.endswith(("qkv.weight", "up.weight", "down.weight", "out.weight")) else 0),
        )
    assert 0.28 < masked / total < 0.32
    layer = block_module(model, "2.ffn.down")
    weight = layer._mask() * layer.weight
    (gradient,) = torch.autograd.grad(weight.sum(), [layer.scores["down"]])
    torch.testing.assert_close(gradient, layer.weight)


def test_bitfit_trains_biases_of_the_encoder_only() -> None:
    model = adapted({"is": "bitfit"})
    assert names(model) == {n for n, _ in model.encoder.named_parameters(prefix="encoder") if n.endswith("bias")}
    learning, total = count_trainable(model)
    assert learning / total < 0.04
    assert any("norm.weight" in name for name in names(adapted({"is": "bitfit", "norms": True})))
    bare = decode(
        ModelSettings,
        {"width": 16, "depth": 1, "heads": 2, "vocab_size": 9, "norm": {"is": "layer", "bias": False}}
        | {"attention": {"is": "full", "bias": False, "bias_out": False}}
        | {"ffn": {"is": "mlp", "bias": False, "bias_out": False}},
    )
    with pytest.raises(SettingsError, match="no biases"):
        adapted({"is": "bitfit"}, bare)


def test_top_layers() -> None:
    assert {name.split(".")[2] for name in names(adapted({"is": "top_layers", "layers": 2}))} == {"1", "2"}
    embeddings = names(adapted({"is": "top_layers", "layers": 0, "embeddings": True}))
    assert "encoder.embeddings.word.weight" in embeddings
    assert not any(name.startswith("encoder.blocks") for name in embeddings)


def test_every_token_attends_to_a_prompt_which_needs_no_positions() -> None:
    model = adapted({"is": "prompt", "num_tokens": 20})
    whole = Batch.from_sequences([list(range(24))])
    before = model(whole)
    assert before.hidden.shape == (24, 32), "the prompt changed the number of tokens"
    with torch.no_grad():
        cast(Any, model.encoder.sequence_transform).vectors[0, 7] += 1.0
    differences = (model(whole).hidden - before.hidden).abs().amax(1)
    assert (differences > 1e-5).all()
    layers = model(whole, keep_layers=True).layers
    assert layers is not None
    assert [tuple(x.shape) for x in layers] == [(24, 32)] * 4
    unprompted = build_model(TINY, seed=1).eval()(whole, keep_layers=True).layers
    assert unprompted is not None
    torch.testing.assert_close(layers[0], unprompted[0])


def test_two_extensions_cannot_share_a_sublayer() -> None:
    twice = {"is": "combined", "parts": [{"is": "adapters"}, {"is": "adapters", "sublayers": ["ffn"]}]}
    with pytest.raises(SettingsError, match="the ffn sublayer of layer 0 is already occupied"):
        adapted(twice)
    both = adapted({"is": "combined", "parts": [{"is": "adapters"}, {"is": "prompt"}, {"is": "lora"}]})
    assert {name.split(".")[1] for name in names(both)} == {"embedding_norm", "blocks", "sequence_transform"}
    assert len(both.settings.extensions) == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"is": "lora", "targets": ["qery"]}, "should be 'query'"),
        ({"is": "lora", "targets": []}, "at least one"),
        ({"is": "lora", "targets": ["up", "up"]}, "each once"),
        ({"is": "lora", "rank": 0}, "rank = 0"),
        ({"is": "lora", "first_layer": 3}, "3 layers"),
        ({"is": "top_layers", "layers": 4}, "the model has 3"),
        ({"is": "top_layers", "layers": 0}, "nothing would learn"),
        ({"is": "prompt", "num_tokens": 0}, "tokens = 0"),
        ({"is": "adapters", "size": 0}, "size = 0"),
        ({"is": "binary_masks", "sparsity": 1.0}, "sparsity"),
        ({"is": "combined", "parts": []}, "at least one"),
        ({"is": "combined", "parts": [{"is": "lora"}, {"is": "ia3"}]}, "adapted already"),
    ],
)
def test_invalid_settings_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        adapted(table)


def test_an_unknown_adaptation_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'lora'"):
        decode(Adaptation, {"is": "lorra"})


def test_a_merged_model_has_no_inserted_modules() -> None:
    part = decode(Adaptation, {"is": "combined", "parts": [{"is": "lora"}, {"is": "ia3", "targets": ["down"]}]})
    model = build_model(TINY)
    inject(model, part, 0)
    assert sum(isinstance(module, AdaptedLinear) for module in model.modules()) == 6
    assert not any(isinstance(module, AdaptedLinear) for module in merge_and_unload(model, part).modules())
