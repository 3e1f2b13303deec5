"""Activation checkpointing keeps less in memory and leaves gradients unchanged."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from encodery.base.settings import decode
from encodery.model.blocks import ActivationCheckpointing, set_activation_checkpointing
from encodery.model.count import activation_bytes
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

BASE = {"width": 48, "depth": 3, "heads": 3, "intermediate_size": 80, "vocab_size": 200, "max_length": 64, "head": None}
KINDS: dict[str, dict[str, Any]] = {
    "post": {"dropout": 0.1},
    "pre": {"ffn": "glu", "block": "pre", "norm": "rms", "positions": "rotary", "mask": {"is": "window", "size": 4}},
}
BATCH = Batch.from_sequences([[1 + i % 90 for i in range(32)]] * 8)


def gradients_and_memory(model: Model) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a pass, and the bytes that it kept outside what is recomputed."""
    own, kept = {p.data_ptr() for p in model.parameters()}, dict[int, int]()

    def note(x: Tensor) -> Tensor:
        if x.data_ptr() not in own and x.is_floating_point():
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    model.zero_grad()
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        hidden = model(BATCH).hidden
    estimates = sum(kept.values())
    hidden.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, estimates


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients_are_equal_and_memory_is_smaller(kind: dict[str, Any]) -> None:
    model = build_model(decode(ModelSettings, {**BASE, **kind})).train()
    plain, all_kept = gradients_and_memory(model)
    for what in get_args(ActivationCheckpointing)[1:]:
        set_activation_checkpointing(model, what)
        again, kept = gradients_and_memory(model)
        assert plain.keys() == again.keys()
        assert all(torch.equal(plain[name], again[name]) for name in plain), what
        assert kept < 0.85 * all_kept, what
    with torch.no_grad():
        assert torch.isfinite(model(BATCH).hidden).all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_estimate_is_smaller_too(kind: dict[str, Any]) -> None:
    settings = decode(ModelSettings, {**BASE, **kind, "depth": 12})
    estimates = {
        what: activation_bytes(settings, 256, 32, activation_checkpointing=what)
        for what in get_args(ActivationCheckpointing)
    }
    assert estimates["block"] < min(estimates["attention"], estimates["ffn"])
    assert max(estimates["attention"], estimates["ffn"]) < estimates["nothing"]
    one = activation_bytes(decode(ModelSettings, {**BASE, **kind, "depth": 1}), 256, 32)
    assert one < estimates["block"] < one + 12 * 256 * 48 * 4 * 1.1
