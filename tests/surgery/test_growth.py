"""Growth and coalescing: what they preserve, to rounding in fp64; what they change, and how; errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.blocks.pre import PreNorm
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.extensions.adapter import Adapter
from encodery.model.ffn.glu import GLU
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import LoadedModel
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import Model, build_model
from encodery.model.norms.rms import RMSNorm
from encodery.model.positions.alibi import ALiBi
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery
from encodery.surgery._channels import narrow, random_sources, widen
from encodery.surgery._sizes import axes, changed_sizes, resized_settings
from encodery.surgery.coalesce import Coalesce
from encodery.surgery.grow import Grow
from encodery.surgery.tile import CentreTile

SMALL = ModelSettings(width=12, depth=2, heads=2, intermediate_size=10, vocab_size=30, max_length=16, type_vocab_size=2)
MODERN = dataclasses.replace(
    SMALL,
    type_vocab_size=0,
    positions=RotaryPositions(),
    ffn=GLU(),
    block=PreNorm(first_norm=False),
    mask=AlternatingMask(size=2, every=2),
)
ALBERT = dataclasses.replace(
    SMALL, embeddings=FactorizedEmbeddings(width=8), norm=RMSNorm(), block=PreNorm(), head=MLMHead(tied=False)
)
BARE = dataclasses.replace(SMALL, head=None)
ALL = {"post": SMALL, "pre": MODERN, "factorized": ALBERT, "headless": BARE}
BATCH = Batch.from_sequences([[5, 9, 3, 7, 8, 2, 11], [4], [6, 1, 20, 29, 13, 14]])
Float64State = dict[str, Tensor]


def example(settings: ModelSettings) -> LoadedModel:
    """A model without equal weights."""
    model = build_model(settings, 1).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return LoadedModel(Path("model"), model)


def double_state(loaded: LoadedModel) -> Float64State:
    return {name: tensor.double() for name, tensor in loaded.model.state_dict().items()}


@torch.no_grad()
def outputs(settings: ModelSettings, state: Float64State) -> tuple[Tensor, Tensor | None]:
    """Hidden states and logits, in fp64."""
    model = Model(settings).double().eval()
    model.load_state_dict(state)
    output = model(BATCH)
    return output.hidden, output.mlm_logits(output.hidden) if settings.head is not None else None


def grow(part: Grow, settings: ModelSettings) -> tuple[ModelSettings, Float64State, Tensor, Float64State]:
    loaded = example(settings)
    new = resized_settings(loaded, part.width, part.heads, part.intermediate_size, part.depth)
    state, channels = part.grow(double_state(loaded), settings, new, torch.Generator().manual_seed(3))
    return new, state, channels, double_state(loaded)


@pytest.mark.parametrize("symmetry_breaking", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [{"width": 24}, {"width": 36, "heads": 3, "intermediate_size": 11}, {"heads": 5}, {"intermediate_size": 17}],
    ids=str,
)
@pytest.mark.parametrize("name", ALL)
def test_copies_with_fractions_preserve_the_function(
    name: str, sizes: dict[str, int], symmetry_breaking: float
) -> None:
    """Widths that are multiples; any heads and intermediate sizes, since no norm reads those."""
    new, state, channels, before = grow(Grow(**sizes, symmetry_breaking=symmetry_breaking), ALL[name])
    hidden, logits = outputs(new, state)
    expected, expected_logits = outputs(ALL[name], before)
    torch.testing.assert_close(hidden, expected[:, channels], rtol=0, atol=1e-10)
    if logits is not None:
        torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-10)
    for size, value in sizes.items():
        assert getattr(new.shape, size) == value
    assert new.shape.head_size == 6


@pytest.mark.parametrize("copies", ["even", "random"])
def test_a_width_that_is_no_multiple_preserves_sums_but_not_norms(copies: str) -> None:
    """Each added channel repeats one, and sums over channels stay the same; mean and variance differ."""
    part = decode(Grow, {"width": 18, "copies": copies})
    new, state, channels, before = grow(part, SMALL)
    assert channels[:12].tolist() == list(range(12))
    before_sizes, after_sizes = changed_sizes(SMALL, new)
    paths = axes(SMALL, before_sizes)
    qkv, small = state["encoder.blocks.0.attention.qkv.weight"], before["encoder.blocks.0.attention.qkv.weight"]
    x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(12)
    torch.testing.assert_close((qkv @ x[channels]).view(3, 18)[:, rows], (small @ x).view(3, 12)[:, rows])
    assert {axis.size for axis in paths["encoder.blocks.0.attention.qkv.weight"]} == {"width", "heads"}
    hidden, _ = outputs(new, state)
    expected, _ = outputs(SMALL, before)
    assert 1e-3 < (hidden - expected[:, channels]).abs().max() < 2
    assert after_sizes == {"width": 18, "heads": 3, "intermediate_size": 15}


def test_added_channels_come_from_the_layer_above() -> None:
    """aki: the first channels are the layer's own, the added ones the next layer's; the last layer keeps its own."""
    part = Grow(width=24, method="aki", symmetry_breaking=0.0)
    _, state, _, _ = grow(part, SMALL)
    _, own, _, _ = grow(dataclasses.replace(part, method="fpi"), SMALL)
    for name in ("attention.out.weight", "ffn.up.weight", "ffn.up.bias", "attention_norm.weight"):
        below, above = (f"encoder.blocks.{layer}.{name}" for layer in (0, 1))
        half = len(own[below]) // 2
        assert torch.equal(state[below][:half], own[below][:half])
        assert torch.equal(state[below][half:], own[above][half:])
        assert torch.equal(state[above], own[above])
    layers = ((state, 0), (own, 0), (own, 1))
    qkv, mine, higher = (s[f"encoder.blocks.{n}.attention.qkv.weight"].view(3, 4, 6, 24) for s, n in layers)
    assert torch.equal(qkv[:, :2], mine[:, :2])
    assert torch.equal(qkv[:, 2:], higher[:, 2:]), "added heads of queries, keys or values do not come from above"
    assert torch.equal(state["encoder.embeddings.word.weight"], own["encoder.embeddings.word.weight"])


@pytest.mark.parametrize("symmetry_breaking", [0.0, 0.5])
def test_symmetry_breaking_gives_copies_different_gradients(symmetry_breaking: float) -> None:
    new, state, _, _ = grow(Grow(width=24, symmetry_breaking=symmetry_breaking), SMALL)
    model = Model(new).double()
    model.load_state_dict(state)
    output = model(BATCH)
    output.mlm_logits(output.hidden).logsumexp(-1).sum().backward()
    bias = model.get_parameter("encoder.blocks.0.ffn.up.bias").grad
    assert bias is not None
    equal = torch.allclose(bias[:10], bias[10:], atol=1e-12)
    assert equal == (symmetry_breaking == 0)


@pytest.mark.parametrize("settings", [MODERN, ALBERT], ids=["pre", "factorized"])
def test_silent_layers_preserve_the_function_and_can_learn(settings: ModelSettings) -> None:
    new, state, _, before = grow(Grow(depth=5, layers="identity"), settings)
    for mine, theirs in zip(outputs(new, state), outputs(settings, before), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    model = Model(new).double()
    model.load_state_dict(state)
    output = model(BATCH)
    output.mlm_logits(output.hidden).logsumexp(-1).sum().backward()
    grad = model.get_parameter("encoder.blocks.4.ffn.down.weight").grad
    assert grad is not None
    assert grad.abs().max() > 0


@pytest.mark.parametrize(("layers", "order"), [("stack", [0, 1, 0, 1, 0]), ("repeat", [0, 0, 0, 1, 1])])
def test_sources_of_layers(layers: str, order: list[int]) -> None:
    _, state, _, before = grow(decode(Grow, {"depth": 5, "layers": layers}), MODERN)
    for layer, source in enumerate(order):
        for name in ("attention.qkv.weight", "ffn.down.weight", "ffn_norm.weight"):
            assert torch.equal(state[f"encoder.blocks.{layer}.{name}"], before[f"encoder.blocks.{source}.{name}"])
    assert "encoder.blocks.0.attention_norm.weight" not in state
    copied = state["encoder.blocks.2.attention_norm.weight"]
    assert order[2] == 0
    assert torch.equal(copied, torch.ones(12, dtype=torch.float64)), "layer 0 has no norm to copy"


@pytest.mark.parametrize("layers", ["stack", "repeat"])
@pytest.mark.parametrize("name", ALL)
def test_coalescing_undoes_growth(name: str, layers: str) -> None:
    part = decode(Grow, {"width": 24, "depth": 4, "layers": layers})
    new, state, _, before = grow(part, ALL[name])
    back = decode(Coalesce, {"width": 12, "depth": 2, "layers": layers}).coalesce(state, new, ALL[name])
    assert back.keys() == before.keys()
    for key, expected in before.items():
        torch.testing.assert_close(back[key], expected, rtol=0, atol=1e-12, msg=key)


def test_coalescing_averages_channels_and_adds_inputs() -> None:
    loaded = example(SMALL)
    result = Coalesce(width=6).operate(loaded, torch.Generator())
    small, big = result.model.state_dict(), loaded.model.state_dict()
    embeddings = big["encoder.embeddings.word.weight"]
    torch.testing.assert_close(small["encoder.embeddings.word.weight"], (embeddings[:, :6] + embeddings[:, 6:]) / 2)
    dense = big["heads.mlm.dense.weight"]
    outputs = (dense[:6] + dense[6:]) / 2
    torch.testing.assert_close(small["heads.mlm.dense.weight"], outputs[:, :6] + outputs[:, 6:])
    norm = big["heads.mlm.norm.weight"]
    torch.testing.assert_close(
        small["heads.mlm.norm.weight"], norm[:6] + norm[6:], msg="the tied decoder sums over the norm"
    )
    halved = Coalesce().operate(example(MODERN), torch.Generator()).model.settings
    assert (halved.width, halved.heads, halved.intermediate_size, halved.depth) == (6, 1, 5, 1)


def test_narrowing_inverts_widening_for_any_copies() -> None:
    part = Grow(width=30, copies="random", symmetry_breaking=0.9)
    loaded = example(SMALL)
    new = resized_settings(loaded, 30, None, None, None)
    before, after = changed_sizes(SMALL, new)
    sources, paths = random_sources(before, after, torch.Generator().manual_seed(0)), axes(SMALL, before)
    wide = widen(double_state(loaded), paths, sources, part.symmetry_breaking, torch.Generator().manual_seed(1))
    for name, tensor in narrow(wide, paths, sources).items():
        torch.testing.assert_close(tensor, double_state(loaded)[name], rtol=0, atol=1e-12)


def test_tiling_puts_the_small_matrix_in_the_middle() -> None:
    loaded = example(MODERN)
    result = CentreTile(width=36, depth=3).operate(loaded, torch.Generator())
    big, small = result.model.state_dict(), loaded.model.state_dict()
    embeddings = big["encoder.embeddings.word.weight"]
    assert torch.equal(embeddings[:, 12:24], small["encoder.embeddings.word.weight"])
    assert torch.equal(embeddings[:, :12], embeddings[:, 24:])
    out = "encoder.blocks.{}.attention.out.weight"
    for layer, source in enumerate((0, 1, 1)):
        assert torch.equal(big[out.format(layer)][12:24, 12:24], small[out.format(source)])
    up = big["encoder.blocks.0.ffn.up.weight"].view(2, 30, 36)
    assert torch.equal(up[:, 10:20, 12:24], small["encoder.blocks.0.ffn.up.weight"].view(2, 10, 12))


def test_metrics_say_how_far_outputs_moved() -> None:
    def drift(settings: ModelSettings, **table: Any) -> float:
        result = Grow(**table).operate(example(settings), torch.Generator().manual_seed(0))
        assert result.metrics["parameters"] > result.metrics["parameters_before"]
        return float(result.metrics["drift"])

    assert drift(SMALL, width=24) < 1e-5
    assert drift(MODERN, width=24, depth=3, layers="identity") < 1e-5
    assert drift(SMALL, width=24, method="aki") > 1e-3
    assert drift(dataclasses.replace(SMALL, positions=ALiBi()), heads=4) > 1e-4, "slopes follow the number of heads"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"is": "grow"}, "Nothing would change"),
        ({"is": "grow", "width": 6, "heads": 2}, "width = 6"),
        ({"is": "tile", "depth": 1}, "depth = 1"),
        ({"is": "grow", "width": 13}, "give heads"),
        ({"is": "grow", "symmetry_breaking": 1.0, "width": 24}, "symmetry_breaking = 1"),
        ({"is": "grow", "depth": 4, "layers": "identity"}, "post-norm"),
        ({"is": "coalesce", "depth": 3}, "1 <= depth <= 2"),
        ({"is": "coalesce", "width": 24}, "1 <= width <= 12"),
    ],
)
def test_invalid_sizes_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode(Surgery, table).operate(example(SMALL), torch.Generator())


def test_models_that_cannot_grow_are_refused() -> None:
    bare = example(dataclasses.replace(SMALL, head=MLMHead(transform=False)))
    with pytest.raises(SettingsError, match="no transform"):
        Grow(width=24).operate(bare, torch.Generator())
    assert Grow(intermediate_size=20).operate(bare, torch.Generator()).metrics["drift"] < 1e-5
    adapted = example(SMALL)
    adapted.model.add_extension(Adapter(size=2), torch.Generator())
    with pytest.raises(SettingsError, match="adapters or prompts"):
        Grow(width=24).operate(adapted, torch.Generator())
