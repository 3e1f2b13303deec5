"""Checks of pruning, on two weights that change at random in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encodery.base.settings import decode, encode
from encodery.compress.prune import Pruning, RunningPruning
from encodery.train.hooks import TrainState

STEPS = 40


def example_weights() -> dict[str, nn.Parameter]:
    """Return two weights; equal ones in every call."""
    draw = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(rows, 8, generator=draw)) for name, rows in (("up", 24), ("down", 6))}


def run(pruning: RunningPruning, weights: dict[str, nn.Parameter], steps: range) -> None:
    """Make steps that change the weights, also pruned ones, by numbers that depend on the step only."""
    for step in steps:
        pruning.before_step(TrainState(step, step, step, step / STEPS))
        draw = torch.Generator().manual_seed(step)
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=draw)
            weight.data.sub_(0.3 * weight.grad)
        pruning.after_step(TrainState(step + 1, step + 1, step + 1, (step + 1) / STEPS))


def check_settings_round_trip(part: Pruning) -> None:
    """The part is what its settings decode to."""
    assert decode(Pruning, encode(part)) == part


def check_pruned_weights_stay_zero(part: Pruning) -> None:
    """A weight that is zero after one step is zero after all later ones, although steps change it."""
    weights = example_weights()
    pruning = part.build(weights)
    zero = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for step in range(STEPS):
        run(pruning, weights, range(step, step + 1))
        for name, weight in weights.items():
            assert not weight[zero[name]].any(), f"{name}: a pruned weight has grown again in step {step + 1}"
            zero[name] = weight.detach() == 0
    assert any(pruned.any() for pruned in zero.values()), "nothing was pruned by the end of the run"
    assert pruning.masks.sparsity == sum(int(p.sum()) for p in zero.values()) / sum(p.numel() for p in zero.values())


def check_nothing_changes_once_it_is_complete(part: Pruning) -> None:
    """The sparsity grows until `is_complete`, which is true at the end of the run, and not after."""
    weights = example_weights()
    pruning, last, complete = part.build(weights), 0.0, False
    for step in range(STEPS):
        run(pruning, weights, range(step, step + 1))
        sparsity = pruning.masks.sparsity
        assert sparsity >= last, "the sparsity has become lower"
        assert sparsity == last or not complete, "weights were pruned after is_complete"
        last, complete = sparsity, part.is_complete((step + 1) / STEPS)
    assert complete, "is_complete is false at the end of the run"


def check_resume(part: Pruning) -> None:
    """Pruning that is resumed from its state equals an uninterrupted one bit for bit."""
    whole, parted = example_weights(), example_weights()
    run(part.build(whole), whole, range(STEPS))
    first = part.build(parted)
    run(first, parted, range(STEPS // 2))
    state = {name: tensor.clone() for name, tensor in first.state_tensors().items()}
    second = part.build(parted)
    second.load_tensors(state)
    run(second, parted, range(STEPS // 2, STEPS))
    for name, weight in whole.items():
        assert torch.equal(weight, parted[name]), f"{name} differs"


def check_evaluation(part: Pruning) -> None:
    """Pruned weights are zero while weights are evaluated, whatever they are; then they are as before."""
    weights = example_weights()
    pruning = part.build(weights)
    run(pruning, weights, range(STEPS))
    zero = {name: weight.detach() == 0 for name, weight in weights.items()}
    average: dict[str, Tensor] = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.data.copy_(average[name])
    with pruning.evaluation_weights():
        for name, weight in weights.items():
            assert torch.equal(weight == 0, zero[name]), f"{name}: other weights are zero than were pruned"
    assert all(torch.equal(weight, average[name]) for name, weight in weights.items()), "the weights have changed"
