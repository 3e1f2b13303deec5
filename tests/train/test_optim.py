"""Each optimiser against its formula in double precision, and its special properties."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from encodery.base.errors import ContractError, SettingsError
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.train.optim import Optimizer
from encodery.train.optim._groups import trainable
from encodery.train.optim.adamw import AdamW
from encodery.train.optim.lamb import LAMB
from encodery.train.optim.muon import Muon
from encodery.train.optim.stable_adamw import StableAdamW
from encodery.train.optimizer_state import state_tensors

B1, B2, EPS, DECAY, LR = 0.9, 0.95, 1e-6, 0.1, 0.01
Rule = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], tuple[Tensor, Tensor, Tensor]]


def adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, decay: float) -> tuple[Tensor, Tensor, Tensor]:
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
    w = w - LR * decay * w
    return w - LR * (m / (1 - B1**t)) / ((v / (1 - B2**t)).sqrt() + EPS), m, v


def stable(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, decay: float) -> tuple[Tensor, Tensor, Tensor]:
    b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (B1, B2))
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    rms = (g * g / v.clamp(min=EPS**2)).mean().sqrt()
    rate = LR / max(1.0, rms.item())
    return w - rate * decay * w - rate * m / (v.sqrt() + EPS), m, v


def lamb(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, decay: float) -> tuple[Tensor, Tensor, Tensor]:
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
    u = (m / (1 - B1**t)) / ((v / (1 - B2**t)).sqrt() + EPS) + decay * w
    trust = (w.norm() / u.norm()).item() if decay and w.norm() > 0 and u.norm() > 0 else 1.0
    return w - LR * trust * u, m, v


@pytest.mark.parametrize(("part", "rule"), [(AdamW, adamw), (StableAdamW, stable), (LAMB, lamb)])
def test_equals_the_formula(part: type[Optimizer], rule: Rule) -> None:
    source = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    optimizer = part(lr=LR, betas=(B1, B2), eps=EPS, weight_decay=DECAY).build(net)
    own = {n: (p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)) for n, p in net.named_parameters()}
    for t in range(1, 7):
        scale = 30.0 if t == 5 else 1.0
        for name, p in net.named_parameters():
            p.grad = scale * torch.randn(p.shape, generator=source, dtype=torch.float64)
            own[name] = rule(
                own[name][0], p.grad, *[x.detach() for x in own[name][1:]], t, DECAY if p.ndim > 1 else 0.0
            )
        optimizer.step()
        for name, p in net.named_parameters():
            assert (p - own[name][0]).abs().max() < 1e-12, (name, t)


def test_stable_adamw_equals_adamw_for_usual_gradients_and_shrinks_the_step_of_a_spike() -> None:
    def run(part: type[Optimizer], scales: list[float]) -> Tensor:
        net = nn.Linear(40, 40, bias=False)
        nn.init.zeros_(net.weight)
        optimizer = part(lr=LR, weight_decay=0.0).build(net)
        source = torch.Generator().manual_seed(1)
        sign = torch.randn(40, 40, generator=source).sign()
        for scale in scales:
            before = net.weight.detach().clone()
            net.weight.grad = sign * scale
            optimizer.step()
        return (net.weight.detach() - before).abs().mean()

    falling = [1.0, 0.9, 0.8, 0.7]
    assert run(StableAdamW, falling) == pytest.approx(run(AdamW, falling).item(), rel=1e-5)
    spike = [0.01] * 30 + [10.0]
    assert run(StableAdamW, spike) < 0.5 * run(AdamW, spike)


def test_steps_of_lamb_are_relative_to_the_weights() -> None:
    for size in (0.01, 1.0, 100.0):
        net = nn.Linear(30, 30, bias=False)
        nn.init.normal_(net.weight, std=size, generator=torch.Generator().manual_seed(0))
        before = net.weight.detach().clone()
        net.weight.grad = torch.ones_like(net.weight)
        LAMB(lr=0.01, weight_decay=0.0).build(net).step()
        assert (net.weight.detach() - before).norm() / before.norm() == pytest.approx(0.01, rel=1e-3)


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    net = build_model(ModelSettings(width=32, depth=2, heads=2, vocab_size=64, max_length=32))
    optimizer = Muon(lr=0.01, weight_decay=0.0).build(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    source = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=source)
    optimizer.step()
    kept = state_tensors(optimizer)[0]
    with_momentum = {key.removesuffix(":momentum_buffer") for key in kept if key.endswith(":momentum_buffer")}
    assert with_momentum == {n for n, p in net.named_parameters() if n.startswith("encoder.blocks.") and p.ndim == 2}
    assert any(key.endswith(":exp_avg_sq") for key in kept)
    for name, p in net.named_parameters():
        change = (p - before[name]).detach()
        if name in with_momentum:
            spectrum = torch.linalg.svdvals(change / (0.2 * 0.01 * max(change.shape) ** 0.5))
            assert spectrum.min() > 0.3, "the update must be nearly orthogonal"
            assert spectrum.max() < 1.6
        else:
            assert change.abs().max() < 0.0101, "the update must be a step of Adam"


def test_muon_with_the_original_scale_has_a_separate_rate_for_the_rest() -> None:
    net = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=64, max_length=32))
    optimizer = Muon(lr=0.02, adamw_lr=0.001, adjust_lr="original").build(net)
    assert [group["peak_lr"] for group in optimizer.param_groups] == [0.02, 0.001, 0.001]
    assert Muon().build(nn.Linear(3, 3)).param_groups[0]["params"][0].shape == (3, 3)


def test_a_joined_optimiser_supports_the_state_dict_of_torch() -> None:
    net = build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=64, max_length=32))
    optimizer, other = Muon().build(net), Muon().build(net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    other.step()
    assert state_tensors(other)[0].keys() == state_tensors(optimizer)[0].keys()
    other.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_adamw_is_fused_on_the_cpu() -> None:
    assert AdamW().build(nn.Linear(3, 3)).param_groups[0]["fused"]


def test_impossible_settings_and_modules_are_refused() -> None:
    with pytest.raises(SettingsError, match="lr"):
        AdamW(lr=0.0)
    with pytest.raises(SettingsError, match="betas"):
        LAMB(betas=(0.9, 1.0))
    with pytest.raises(SettingsError, match="weight_decay"):
        StableAdamW(weight_decay=-1.0)
    with pytest.raises(SettingsError, match="momentum"):
        Muon(momentum=1.0)
    with pytest.raises(SettingsError, match="nothing to train"):
        trainable(nn.Linear(2, 2).requires_grad_(False))


def test_state_that_is_not_a_tensor_is_a_contract_error() -> None:
    net = nn.Linear(2, 2)
    optimizer = AdamW().build(net)
    optimizer.state[net.weight]["count"] = 3
    with pytest.raises(ContractError, match="count"):
        state_tensors(optimizer)
