"""Linear attention: the fast implementation agrees with the formula, costs are linear, refusals come early."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.count import activation_bytes, flops_per_token
from encodery.model.network import build_model
from encodery.model.ops.linear_attention import LinearInputs, chunked, naive
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Layout

pytestmark = pytest.mark.usefixtures("_poisoned")

BATCHES = [(1,), (1, 2, 63, 129), (64, 128, 64), (20, 19, 5, 4, 1, 300)]
BASE = {"width": 32, "depth": 2, "heads": 2, "vocab_size": 60, "max_length": 600, "attention": "linear"}


def layout(lengths: tuple[int, ...]) -> Layout:
    return Batch.from_sequences([[0] * length for length in lengths]).layout


def inputs(tokens: int, causal: bool) -> LinearInputs:
    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(tokens, 3, 5, dtype=torch.float64, generator=source) for _ in range(5)]
    positive = [tensor.exp() for tensor in drawn[3:]]
    return LinearInputs(*(tensor.requires_grad_() for tensor in drawn[:3] + positive), causal=causal)


@pytest.mark.parametrize("lengths", BATCHES)
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_naive(lengths: tuple[int, ...], causal: bool) -> None:
    results: list[list[Tensor]] = []
    for attend in (chunked.attend, naive.attend):
        packed = inputs(sum(lengths), causal)
        mixed = attend(packed, layout(lengths))
        above = torch.randn(mixed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        results.append([mixed, *torch.autograd.grad(mixed, packed[:5], above)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_one_bucket_of_a_compiled_graph_gives_the_same(causal: bool) -> None:
    lengths = BATCHES[1]
    packed = inputs(sum(lengths), causal)
    together = chunked._attend_bucket(packed, chunked._whole(layout(lengths)))
    torch.testing.assert_close(together, naive.attend(packed, layout(lengths)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mask", ["document", "causal"])
def test_the_features_are_elu_plus_one(mask: str) -> None:
    """The output of a layer is φ(q) Σ φ(k)ᵀv / φ(q) Σ φ(k)ᵀ with φ(x) = x + 1 above zero and exp(x) below."""
    settings = decode(ModelSettings, BASE | {"mask": mask, "positions": "none"})
    model = build_model(settings, seed=0).double()
    attention: Any = model.encoder.blocks[0].get_submodule("attention")
    with torch.no_grad():
        attention.qkv.weight.mul_(30)
    x = torch.randn(9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    query, key, value = attention.qkv(x).view(9, 3, 2, 16).permute(1, 2, 0, 3)
    assert min(query.min(), key.min()) < -1 < 1 < max(query.max(), key.max()), "both branches are used"
    query, key = (torch.where(t > 0, t + 1, t.exp()) for t in (query, key))
    scores = query @ key.transpose(1, 2)
    scores = scores.tril() if mask == "causal" else scores
    mixed = (scores / scores.sum(-1, keepdim=True)) @ value
    expected = attention.out(mixed.transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(x, layout((9,)), model.encoder.positions), expected)


@pytest.mark.parametrize("mask", ["document", "causal"])
def test_the_cost_of_attention_does_not_grow_with_the_length(mask: str) -> None:
    settings = decode(ModelSettings, BASE | {"mask": mask})
    assert flops_per_token(settings, 128) == flops_per_token(settings, 8192)
    assert activation_bytes(settings, 8192, 512) >= activation_bytes(settings, 8192, 8192)
    full = dataclasses.replace(settings, attention=decode(ModelSettings, BASE | {"attention": "full"}).attention)
    assert flops_per_token(full, 8192) > 4 * flops_per_token(settings, 8192)


@pytest.mark.parametrize("mask", ["document", "causal"])
@pytest.mark.parametrize("length", [16, 128, 512])
def test_what_is_kept_for_the_backward_pass(mask: str, length: int) -> None:
    settings = decode(ModelSettings, BASE | {"mask": mask})
    encoder = build_model(settings).encoder
    module, x = encoder.blocks[0].attention, torch.randn(1024, 32)
    kept: dict[int, int] = {}
    own = {p.data_ptr() for p in module.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = module(x.requires_grad_(), layout((length,) * (1024 // length)), encoder.positions)
    assert out.shape == x.shape
    expected = settings.attention.cost(settings.layer_shapes[0], length).kept * 1024 * 4
    assert sum(kept.values()) == pytest.approx(expected, rel=0.2)


def test_with_rotary_positions_only_distances_matter() -> None:
    """Two tokens give the second one the same result wherever they stand, if the tokens before them have no values."""
    model = build_model(decode(ModelSettings, BASE | {"positions": "rotary", "depth": 1})).double()
    module = model.encoder.blocks[0].attention
    pair = torch.randn(2, 32, dtype=torch.float64)
    weights = []
    for before in (0, 5):
        x = torch.cat([torch.zeros(before, 32, dtype=torch.float64), pair])
        batch = layout((len(x),))
        positive = torch.nn.functional.elu(module.qkv(x)[:, :64]) + 1
        rotated = model.encoder.positions.rotate(torch.cat([positive, x], 1), batch, module.shape)
        query, key, _ = rotated.view(-1, 3, 2, 16).unbind(1)
        weights.append((query[-1] * key[-2]).sum(-1))
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "window"}, "attention = 'linear': attends to the whole document"),
        ({"mask": "sinks"}, "attention = 'linear': attends to the whole document"),
        ({"mask": "prefix", "mask.length": 3}, "attention = 'linear': attends to the whole document"),
        ({"positions": "alibi"}, "attention = 'linear': has no scores"),
    ],
)
def test_wrong_combinations_are_refused_when_settings_are_read(settings: dict[str, object], message: str) -> None:
    table = {key: value for key, value in settings.items() if "." not in key}
    if "mask.length" in settings:
        table["mask"] = {"is": "prefix", "length": settings["mask.length"]}
    with pytest.raises(SettingsError, match=message):
        decode(ModelSettings, BASE | table)


def test_prefixes_of_a_batch_are_refused() -> None:
    model = build_model(decode(ModelSettings, BASE | {"mask": "causal"}))
    batch = Batch.from_sequences([[1, 2, 3]])
    with pytest.raises(SettingsError, match="with prefixes, is neither the whole document nor causal"):
        model(dataclasses.replace(batch, prefix=torch.tensor([2])))


def test_low_precision_sums_in_fp32() -> None:
    model = build_model(decode(ModelSettings, BASE)).eval()
    batch = Batch.from_sequences([list(range(60)) * 9])
    with torch.autocast("cpu", torch.bfloat16):
        low = model(batch).hidden
    exact = model(batch).hidden
    assert (low - exact).norm() < 0.02 * exact.norm()
