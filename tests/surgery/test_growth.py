"""Growth and its way back: what is preserved, to rounding in fp64; what is not, and what holds of it; errors."""

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
Exact = dict[str, Tensor]


def given(settings: ModelSettings) -> LoadedModel:
    """A model none of whose weights are equal."""
    model = build_model(settings, 1).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return LoadedModel(Path("given"), model)


def doubled(loaded: LoadedModel) -> Exact:
    return {name: tensor.double() for name, tensor in loaded.model.state_dict().items()}


@torch.no_grad()
def computed(settings: ModelSettings, state: Exact) -> tuple[Tensor, Tensor | None]:
    """Hidden states and scores, in fp64."""
    model = Model(settings).double().eval()
    model.load_state_dict(state)
    output = model(BATCH)
    return output.hidden, output.mlm_logits(output.hidden) if settings.head is not None else None


def grown(part: Grow, settings: ModelSettings) -> tuple[ModelSettings, Exact, Tensor, Exact]:
    loaded = given(settings)
    new = resized_settings(loaded, part.width, part.heads, part.intermediate_size, part.depth)
    state, channels = part.grow(doubled(loaded), settings, new, torch.Generator().manual_seed(3))
    return new, state, channels, doubled(loaded)


@pytest.mark.parametrize("uneven", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [{"width": 24}, {"width": 36, "heads": 3, "intermediate_size": 11}, {"heads": 5}, {"intermediate_size": 17}],
    ids=str,
)
@pytest.mark.parametrize("name", ALL)
def test_copies_with_shares_preserve_the_function(name: str, sizes: dict[str, int], uneven: float) -> None:
    """Widths that are multiples; heads and inner widths of any number, since no norm looks at those."""
    new, state, channels, before = grown(Grow(**sizes, symmetry_breaking=uneven), ALL[name])
    hidden, scores = computed(new, state)
    expected, said = computed(ALL[name], before)
    torch.testing.assert_close(hidden, expected[:, channels], rtol=0, atol=1e-10)
    if scores is not None:
        torch.testing.assert_close(scores, said, rtol=0, atol=1e-10)
    for size, value in sizes.items():
        assert getattr(new.shape, size) == value
    assert new.shape.head_size == 6


@pytest.mark.parametrize("copies", ["even", "random"])
def test_a_width_that_is_no_multiple_preserves_the_sums_but_not_the_norms(copies: str) -> None:
    """Each added channel repeats one, and whatever sums over channels gets what it got; mean and variance differ."""
    part = decode(Grow, {"width": 18, "copies": copies})
    new, state, channels, before = grown(part, SMALL)
    assert channels[:12].tolist() == list(range(12))
    before_sizes, after_sizes = changed_sizes(SMALL, new)
    paths = axes(SMALL, before_sizes)
    qkv, narrow = state["encoder.blocks.0.attention.qkv.weight"], before["encoder.blocks.0.attention.qkv.weight"]
    x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(12)
    torch.testing.assert_close((qkv @ x[channels]).view(3, 18)[:, rows], (narrow @ x).view(3, 12)[:, rows])
    assert {axis.size for axis in paths["encoder.blocks.0.attention.qkv.weight"]} == {"width", "heads"}
    hidden, _ = computed(new, state)
    expected, _ = computed(SMALL, before)
    assert 1e-3 < (hidden - expected[:, channels]).abs().max() < 2
    assert after_sizes == {"width": 18, "heads": 3, "intermediate_size": 15}


def test_knowledge_from_above_fills_what_was_added() -> None:
    """aki: the first channels are the layer's own, those added the next layer's; the last layer has only its own."""
    part = Grow(width=24, method="aki", symmetry_breaking=0.0)
    _, state, _, _ = grown(part, SMALL)
    _, own, _, _ = grown(dataclasses.replace(part, how="fpi"), SMALL)
    for name in ("attention.out.weight", "ffn.up.weight", "ffn.up.bias", "attention_norm.weight"):
        below, above = (f"encoder.blocks.{layer}.{name}" for layer in (0, 1))
        half = len(own[below]) // 2
        assert torch.equal(state[below][:half], own[below][:half])
        assert torch.equal(state[below][half:], own[above][half:])
        assert torch.equal(state[above], own[above])
    layers = ((state, 0), (own, 0), (own, 1))
    qkv, mine, higher = (s[f"encoder.blocks.{n}.attention.qkv.weight"].view(3, 4, 6, 24) for s, n in layers)
    assert torch.equal(qkv[:, :2], mine[:, :2])
    assert torch.equal(qkv[:, 2:], higher[:, 2:]), "of each of queries, keys and values the added heads"
    assert torch.equal(state["encoder.embeddings.word.weight"], own["encoder.embeddings.word.weight"])


@pytest.mark.parametrize("uneven", [0.0, 0.5])
def test_uneven_shares_part_the_copies(uneven: float) -> None:
    new, state, _, _ = grown(Grow(width=24, symmetry_breaking=uneven), SMALL)
    model = Model(new).double()
    model.load_state_dict(state)
    output = model(BATCH)
    output.mlm_logits(output.hidden).logsumexp(-1).sum().backward()
    bias = model.get_parameter("encoder.blocks.0.ffn.up.bias").grad
    assert bias is not None
    alike = torch.allclose(bias[:10], bias[10:], atol=1e-12)
    assert alike == (uneven == 0)


@pytest.mark.parametrize("settings", [MODERN, ALBERT], ids=["pre", "factorized"])
def test_silent_layers_preserve_the_function_and_can_learn(settings: ModelSettings) -> None:
    new, state, _, before = grown(Grow(depth=5, layers="identity"), settings)
    for mine, theirs in zip(computed(new, state), computed(settings, before), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    model = Model(new).double()
    model.load_state_dict(state)
    output = model(BATCH)
    output.mlm_logits(output.hidden).logsumexp(-1).sum().backward()
    grad = model.get_parameter("encoder.blocks.4.ffn.down.weight").grad
    assert grad is not None
    assert grad.abs().max() > 0


@pytest.mark.parametrize(("layers", "order"), [("stack", [0, 1, 0, 1, 0]), ("repeat", [0, 0, 0, 1, 1])])
def test_where_layers_come_from(layers: str, order: list[int]) -> None:
    _, state, _, before = grown(decode(Grow, {"depth": 5, "layers": layers}), MODERN)
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
    new, state, _, before = grown(part, ALL[name])
    back = decode(Coalesce, {"width": 12, "depth": 2, "layers": layers}).coalesce(state, new, ALL[name])
    assert back.keys() == before.keys()
    for key, expected in before.items():
        torch.testing.assert_close(back[key], expected, rtol=0, atol=1e-12, msg=key)


def test_coalescing_averages_channels_and_adds_inputs() -> None:
    loaded = given(SMALL)
    changed = Coalesce(width=6).operate(loaded, torch.Generator())
    small, big = changed.model.state_dict(), loaded.model.state_dict()
    words = big["encoder.embeddings.word.weight"]
    torch.testing.assert_close(small["encoder.embeddings.word.weight"], (words[:, :6] + words[:, 6:]) / 2)
    dense = big["heads.mlm.dense.weight"]
    outputs = (dense[:6] + dense[6:]) / 2
    torch.testing.assert_close(small["heads.mlm.dense.weight"], outputs[:, :6] + outputs[:, 6:])
    norm = big["heads.mlm.norm.weight"]
    torch.testing.assert_close(small["heads.mlm.norm.weight"], norm[:6] + norm[6:], msg="the word table reads it")
    halved = Coalesce().operate(given(MODERN), torch.Generator()).model.settings
    assert (halved.width, halved.heads, halved.intermediate_size, halved.depth) == (6, 1, 5, 1)


def test_narrowing_is_the_inverse_of_widening_for_any_copies() -> None:
    part = Grow(width=30, copies="random", symmetry_breaking=0.9)
    loaded = given(SMALL)
    new = resized_settings(loaded, 30, None, None, None)
    before, after = changed_sizes(SMALL, new)
    pairs, paths = random_sources(before, after, torch.Generator().manual_seed(0)), axes(SMALL, before)
    wide = widen(doubled(loaded), paths, pairs, part.symmetry_breaking, torch.Generator().manual_seed(1))
    for name, tensor in narrow(wide, paths, pairs).items():
        torch.testing.assert_close(tensor, doubled(loaded)[name], rtol=0, atol=1e-12)


def test_tiling_puts_the_small_matrix_in_the_middle() -> None:
    loaded = given(MODERN)
    changed = CentreTile(width=36, depth=3).operate(loaded, torch.Generator())
    big, small = changed.model.state_dict(), loaded.model.state_dict()
    words = big["encoder.embeddings.word.weight"]
    assert torch.equal(words[:, 12:24], small["encoder.embeddings.word.weight"])
    assert torch.equal(words[:, :12], words[:, 24:])
    out = "encoder.blocks.{}.attention.out.weight"
    for layer, source in enumerate((0, 1, 1)):
        assert torch.equal(big[out.format(layer)][12:24, 12:24], small[out.format(source)])
    up = big["encoder.blocks.0.ffn.up.weight"].view(2, 30, 36)
    assert torch.equal(up[:, 10:20, 12:24], small["encoder.blocks.0.ffn.up.weight"].view(2, 10, 12))


def test_figures_tell_how_far_outputs_moved() -> None:
    def drift(settings: ModelSettings, **table: Any) -> float:
        changed = Grow(**table).operate(given(settings), torch.Generator().manual_seed(0))
        assert changed.metrics["parameters"] > changed.metrics["parameters_before"]
        return float(changed.metrics["drift"])

    assert drift(SMALL, width=24) < 1e-5
    assert drift(MODERN, width=24, depth=3, layers="identity") < 1e-5
    assert drift(SMALL, width=24, how="aki") > 1e-3
    assert drift(dataclasses.replace(SMALL, positions=ALiBi()), heads=4) > 1e-4, "slopes follow the number of heads"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"is": "grow"}, "Nothing would change"),
        ({"is": "grow", "width": 6, "heads": 2}, "width = 6"),
        ({"is": "tile", "depth": 1}, "depth = 1"),
        ({"is": "grow", "width": 13}, "give heads"),
        ({"is": "grow", "symmetry_breaking": 1.0, "width": 24}, "uneven = 1"),
        ({"is": "grow", "depth": 4, "layers": "identity"}, "post-norm"),
        ({"is": "coalesce", "depth": 3}, "1 <= depth <= 2"),
        ({"is": "coalesce", "width": 24}, "1 <= width <= 12"),
    ],
)
def test_errors(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode(Surgery, table).operate(given(SMALL), torch.Generator())


def test_what_cannot_grow_says_why() -> None:
    bare = given(dataclasses.replace(SMALL, head=MLMHead(transform=False)))
    with pytest.raises(SettingsError, match="no transform"):
        Grow(width=24).operate(bare, torch.Generator())
    assert Grow(intermediate_size=20).operate(bare, torch.Generator()).metrics["drift"] < 1e-5
    adapted = given(SMALL)
    adapted.model.add_extension(Adapter(size=2), torch.Generator())
    with pytest.raises(SettingsError, match="adapters or prompts"):
        Grow(width=24).operate(adapted, torch.Generator())
