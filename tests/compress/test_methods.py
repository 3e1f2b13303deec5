"""The formulas of the papers: what each part computes, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from encodery.compress.distill.hidden import HiddenDistillation
from encodery.compress.distill.logits import LogitDistillation
from encodery.compress.prune.magnitude import MagnitudePruning
from encodery.model.settings import ModelSettings
from encodery.train.hooks import TrainState
from encodery.train.job import JobOutputs

SHAPE = ModelSettings(width=4, heads=2).shape


def outputs(logits: list[list[float]], hidden: list[list[float]] | None = None, is_softmax: bool = True) -> JobOutputs:
    return JobOutputs(torch.tensor(hidden or [[0.0] * 4]), torch.tensor(logits), is_softmax)


def test_soft_labels_are_compared_at_a_temperature_and_scaled_by_its_square() -> None:
    student, teacher, temperature = [1.0, 0.0], [3.0, -1.0], 2.0
    q, p = (
        torch.softmax(torch.tensor(scores, dtype=torch.float64) / temperature, 0).tolist()
        for scores in (student, teacher)
    )
    expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    module = LogitDistillation(temperature=temperature).build(SHAPE, SHAPE)
    assert module(outputs([student]), outputs([teacher])).item() == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_no_probabilities_are_compared_by_their_difference() -> None:
    module = LogitDistillation(temperature=8.0).build(SHAPE, SHAPE)
    loss = module(outputs([[1.0, 4.0]], is_softmax=False), outputs([[2.0, 2.0]], is_softmax=False))
    assert loss.item() == pytest.approx((1 + 4) / 2)


def test_hidden_states_are_compared_by_their_direction() -> None:
    module = HiddenDistillation().build(SHAPE, SHAPE)
    student = [[1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    teacher = [[5.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]
    loss = module(outputs([[0.0]], student), outputs([[0.0]], teacher))
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 1 - 0.5**0.5]))


def test_the_sparsity_grows_by_the_cubic_schedule() -> None:
    part = MagnitudePruning(sparsity=0.8, begin=0.1, end=0.7)
    assert [round(part.sparsity_at(p), 6) for p in (0.0, 0.1, 0.25, 0.4, 0.7, 1.0)] == [
        0.0,
        0.0,
        round(0.8 * (1 - 0.75**3), 6),
        round(0.8 * (1 - 0.5**3), 6),
        0.8,
        0.8,
    ]


def test_the_smallest_weights_of_each_matrix_are_pruned() -> None:
    """Whatever their sign, and as many in a matrix of small weights as in one of large weights."""
    weights = {"small": torch.tensor([[0.1, -0.4], [-0.2, 0.3]]), "large": torch.tensor([[-9.0, 7.0], [8.0, -6.0]])}
    running = MagnitudePruning(sparsity=0.5, every=1).build(weights)
    running.after_step(TrainState(step=1, tokens=1, elapsed=0.0, progress=1.0))
    torch.testing.assert_close(weights["small"], torch.tensor([[0.0, -0.4], [0.0, 0.3]]))
    assert weights["large"].tolist() == [[-9.0, 0.0], [8.0, 0.0]]
