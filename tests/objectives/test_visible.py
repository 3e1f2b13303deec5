"""[MASK]s that join late or never: fewer tokens in the first layers, the same positions, correct gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import decode
from encodery.corrupt import Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import Objective, ObjectiveModule, normalised_loss
from encodery.objectives.mask_late import MaskLate
from encodery.objectives.masked_autoencoder import MaskedAutoencoder
from encodery.objectives.mlm import MaskedLM

V, MASK = 96, 4
HALF = Schedule.parse(0.5)
WORDS = Vocabulary(MASK, torch.arange(V) < 6, V, torch.ones(V, dtype=torch.bool))
PARTS: dict[str, dict[str, Any]] = {
    "learned": {},
    "rotary": {"positions": "rotary", "block": {"is": "pre", "first_norm": False}, "ffn": "glu"},
    "waves": {"positions": "sinusoidal", "mask": {"is": "alternating", "size": 3, "every": 2}},
    "narrow": {"embeddings": {"is": "factorized", "width": 8}},
}


def build(objective: Objective, **over: Any) -> tuple[Model, ObjectiveModule]:
    base = {
        "width": 32,
        "depth": 3,
        "heads": 2,
        "vocab_size": V,
        "max_length": 64,
        "init": {"is": "normal", "std": 0.1},
    }
    model = build_model(decode(ModelSettings, {**base, **over}), seed=0).double()
    module = objective.build(model.settings, WORDS)
    module.init_weights(torch.Generator().manual_seed(1))
    return model, module.double()


def prepared(module: ObjectiveModule, lengths: tuple[int, ...] = (40, 31, 12, 12, 5)) -> Batch:
    source = torch.Generator().manual_seed(0)
    text = [[1, *torch.randint(6, V, (n - 2,), generator=source).tolist(), 2] for n in lengths]
    return module.prepare(Batch.from_sequences(text), torch.Generator().manual_seed(7), 0.5)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class TokenCounter:
    """Counts the tokens that every block receives."""

    def __init__(self, *stacks: nn.ModuleList) -> None:
        self.seen: list[int] = []
        for block in (block for stack in stacks for block in stack):
            block.register_forward_pre_hook(lambda _, inputs: self.seen.append(len(inputs[0])))


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_layer_0_equals_plain_masked_language_modelling(parts: dict[str, Any]) -> None:
    corruption = TokenMasking(rate=MaskedLM().corruption.rate)
    plain_model, plain = build(MaskedLM(corruption=corruption), **parts)
    late_model, late = build(MaskLate(corruption=corruption, layer=0), **parts)
    batch = prepared(plain)
    for model, module in ((plain_model, plain), (late_model, late)):
        normalised_loss(module(model, batch), module.counts(batch)).backward()
    torch.testing.assert_close(gradients(late_model), gradients(plain_model), atol=1e-12, rtol=1e-9)
    assert late.keeps_heads
    assert late.flops(late_model.settings, 24, 0.0) == plain.flops(plain_model.settings, 24, 0.0)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_the_first_layers_compute_visible_tokens_only(parts: dict[str, Any]) -> None:
    model, module = build(MaskLate(layer=2, corruption=TokenMasking(rate=HALF)), **parts)
    batch = prepared(module)
    counter = TokenCounter(model.encoder.blocks)
    module(model, batch)
    masked = int((batch.ids == MASK).sum())
    assert masked > 30
    assert counter.seen == [batch.tokens - masked] * 2 + [batch.tokens]


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_positions_are_those_of_the_text(parts: dict[str, Any]) -> None:
    """The first layers compute what the plain encoder does if its attention ignores the [MASK]s."""
    if "mask" in parts:
        parts = {**parts, "mask": "document"}  # A window counts the visible tokens.
    model, module = build(MaskedAutoencoder(), **parts)
    batch = prepared(module, (23,))
    visible = (batch.ids != MASK).nonzero().squeeze(1)
    assert 2 < len(visible) < 23
    visible_states = model.encoder(batch, sequence_transform=_late(batch)).hidden

    from encodery.model.attention.full import _FullModule

    def blind(module: _FullModule, inputs: tuple[Tensor, Any, Any]) -> Tensor:
        x, layout, positions = inputs
        qkv = positions.rotate(module.qkv(x), layout, module.shape).view(len(x), 3, 2, 16)
        query, key, value = qkv.permute(1, 2, 0, 3)
        scores = (query @ key.transpose(1, 2) / 4).masked_fill(batch.ids == MASK, float("-inf"))
        return module.out((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))

    for block in model.encoder.blocks:
        block.attention.register_forward_hook(lambda module, inputs, _: blind(module, inputs))
    torch.testing.assert_close(visible_states, model.encoder(batch).hidden[visible], atol=1e-10, rtol=1e-8)


def _late(batch: Batch) -> Any:
    from encodery.objectives._visible import LateMasks, VisibleTokens

    return LateMasks(VisibleTokens(batch, MASK), None)


@pytest.mark.parametrize("objective", [MaskLate(layer=1), MaskedAutoencoder(depth=1)], ids=["late", "autoencoder"])
def test_gradients_are_those_of_finite_differences(objective: Objective) -> None:
    model, module = build(objective, depth=2, positions="rotary", block="pre")
    batch = prepared(module, (14, 9))
    normalised_loss(module(model, batch), module.counts(batch)).backward()
    source = torch.Generator().manual_seed(3)
    named = [*model.named_parameters(), *module.named_parameters()]
    for name, p in named:
        direction = torch.randn(p.shape, generator=source, dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(direction, alpha=sign * 1e-6)
                losses.append(normalised_loss(module(model, batch), module.counts(batch)).item())
                p.sub_(direction, alpha=sign * 1e-6)
        assert p.grad is not None, name
        assert (p.grad * direction).sum().item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=2e-4, abs=1e-8), (
            name
        )


def test_one_sequence_does_not_depend_on_its_neighbours() -> None:
    model, module = build(MaskedAutoencoder(), **PARTS["rotary"])
    texts = [[1, 9, MASK, 30, 2], [1, MASK, MASK, 2], [1, 50, 51, MASK, 53, 54, 2], [1, MASK]]
    together = module.encode(model, Batch.from_sequences(texts)).hidden
    apart = torch.cat([module.encode(model, Batch.from_sequences([text])).hidden for text in texts])
    torch.testing.assert_close(together, apart, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(
    "objective",
    [MaskedLM(), MaskLate(layer=2), MaskedAutoencoder(depth=2)],
    ids=["mlm", "late", "autoencoder"],
)
def test_flops_agree_with_counted_ones(objective: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    objective = dataclasses.replace(objective, corruption=TokenMasking(rate=HALF, mask=1.0, random=0.0, keep=0.0))
    model, module = build(objective, embeddings={"is": "factorized", "width": 8})
    text = Batch.from_sequences([[9] * 32] * 4)
    batch = dataclasses.replace(text.with_ids(text.ids.clone()))
    rows = torch.arange(0, 128, 2)
    batch.ids[rows] = MASK
    with FlopCounterMode(display=False) as counter:
        model.mlm_head(module.encode(model, batch).hidden[rows], model.encoder)
    assert module.flops(model.settings, 32, 0.0) * 128 == pytest.approx(3 * counter.get_total_flops())


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"below model\.depth = 3"):
        build(MaskLate(layer=3))
    with pytest.raises(SettingsError, match="depth = 0"):
        MaskedAutoencoder(depth=0)
    model, module = build(MaskLate(layer=1), positions="alibi")
    with pytest.raises(SettingsError, match="alibi"):
        module.encode(model, prepared(module))
    model, module = build(MaskLate(layer=1), extensions=[{"is": "prompt", "num_tokens": 2}])
    with pytest.raises(SettingsError, match="before the first layer is already occupied"):
        module.encode(model, prepared(module))
