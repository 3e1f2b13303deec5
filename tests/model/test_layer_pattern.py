"""Kinds of parts that alternate over the layers: what is built, counted, trained and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.model.count import flops_per_token
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.runtimes.kind import Runtime

TABLE: dict[str, Any] = {"width": 32, "depth": 4, "heads": 4, "vocab_size": 60, "max_length": 24}
PATTERNS: dict[str, Any] = {
    "attention": {"is": "pattern", "of": ["full", "full", {"is": "full", "bias": False}]},
    "ffn": {"is": "pattern", "of": ["mlp", {"is": "glu", "activation": "silu"}]},
    "block": {"is": "pattern", "of": ["post", "pre"]},
}
BATCH = Batch.from_sequences([[5, 9, 3, 7, 8, 2, 11], [4], [6, 1, 20, 29, 13, 14]])


def settings(**changes: Any) -> ModelSettings:
    return decode(ModelSettings, {**TABLE, **PATTERNS, **changes})


def test_each_layer_has_the_part_of_its_turn() -> None:
    model: Any = build_model(settings(), 1)
    blocks = model.encoder.blocks
    assert [block.attention.qkv.bias is None for block in blocks] == [False, False, True, False]
    assert [block.ffn.up.out_features for block in blocks] == [128, 256, 128, 256]
    assert [type(block).__name__ for block in blocks] == ["_PostNormModule", "_PreNormModule"] * 2
    assert isinstance(model.encoder.final_norm, torch.nn.LayerNorm), "the last layer is pre-norm"
    assert isinstance(build_model(settings(depth=3), 1).encoder.final_norm, torch.nn.Identity)


def test_a_pattern_of_one_part_is_that_part() -> None:
    plain = {"attention": "full", "ffn": "glu", "block": "pre"}
    alone = {name: {"is": "pattern", "of": [part]} for name, part in plain.items()}
    one, other = build_model(settings(**plain), 1), build_model(settings(**alone), 1)
    assert torch.equal(one(BATCH).hidden, other(BATCH).hidden)


def test_it_learns_and_its_operations_are_counted() -> None:
    model = build_model(settings(), 1)
    model(BATCH).hidden.square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    mlp, glu = (flops_per_token(settings(ffn=name), 16) for name in ("mlp", "glu"))
    assert flops_per_token(settings(), 16) == pytest.approx((mlp + glu) / 2)


def test_settings_round_trip() -> None:
    assert decode(ModelSettings, encode(settings())) == settings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn": {"is": "pattern", "of": []}}, "a pattern needs at least one part"),
        (
            {"layer_groups": [0, 0, 1, 1], "ffn": "mlp", "block": "pre"},
            "attention = 'pattern': layers share their weights",
        ),
        (
            {"layer_groups": [0, 0, 1, 1], "attention": "full", "block": "pre"},
            "ffn = 'pattern': layers share their weights",
        ),
        (
            {"layer_groups": [0, 0, 1, 1], "attention": "full", "ffn": "mlp"},
            "block = 'pattern': layers share their weights",
        ),
    ],
)
def test_wrong_patterns_are_refused_when_settings_are_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(**changes)


def test_equal_parts_may_be_shared() -> None:
    """A pattern of one kind does not alternate, so layers may share their weights."""
    alone = {"is": "pattern", "of": ["pre"]}
    shared = settings(layer_groups=[0, 0, 1, 1], attention="full", ffn="mlp", block=alone)
    assert len(build_model(shared, 1).encoder.blocks) == 2


def test_engines_of_fixed_operations_refuse_it() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(SettingsError, match=r"attention = 'pattern': .* supports only full"):
        decode(Runtime, "onnx").build(build_model(settings(), 1))


def test_every_other_layer_is_a_mixture_of_experts() -> None:
    mixture = {"is": "mixture", "expert": "mlp", "experts": 4}
    model: Any = build_model(settings(ffn={"is": "pattern", "of": ["mlp", mixture]}), 1)
    output = model(BATCH)
    assert output.hidden.isfinite().all()
    counts = [sum(p.numel() for p in block.ffn.parameters()) for block in model.encoder.blocks]
    assert counts[1] == counts[3] > 3 * counts[0] == 3 * counts[2]
    assert output.auxiliary, "the terms of the mixtures reach the output"
