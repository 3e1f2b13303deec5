"""The loss of a step is Σ total / Σ count over micro-batches and ranks, not a mean of means."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from encodery.objectives import LossTerm, normalised_loss, step_metrics, sum_counts


def terms(weight: Tensor, x: Tensor, kind: Tensor) -> dict[str, LossTerm]:
    """Two terms with different counts: squared error on the ones, absolute error on the others."""
    error = x @ weight
    return {
        "square": LossTerm(error[kind].square().sum(), int(kind.sum())),
        "absolute": LossTerm(error[~kind].abs().sum(), (~kind).sum(), weight=0.3),
        "positive": LossTerm((error > 0).sum(), len(x), weight=0.0),
    }


def gradient(sizes: list[int], ranks: int = 1) -> tuple[Tensor, float]:
    """The gradient and loss of one data set divided into micro-batches of `sizes`, on ranks that average gradients."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), 5, generator=source, dtype=torch.float64)
    kind = torch.rand(sum(sizes), generator=source) < 0.3
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    pieces = list(zip(x.split(sizes), kind.split(sizes), strict=True))
    counts = sum_counts({"square": int(k.sum()), "absolute": (~k).sum()} for _, k in pieces)
    results = []
    for a, k in pieces:
        micro_terms = terms(weight, a, k)
        (normalised_loss(micro_terms, counts, ranks) / ranks).backward()
        results.append(micro_terms)
    assert weight.grad is not None
    return weight.grad, step_metrics(results)["loss"]


@pytest.mark.parametrize("sizes", [[1] * 60, [7, 1, 30, 22], [59, 1]])
def test_micro_batches_add_up_to_the_large_batch(sizes: list[int]) -> None:
    whole, loss = gradient([60])
    parts, parts_loss = gradient(sizes)
    assert (whole - parts).abs().max() < 1e-14
    assert abs(loss - parts_loss) < 1e-13


def test_ranks_that_average_gradients_add_up_too() -> None:
    whole, _ = gradient([60])
    averaged, _ = gradient([20, 20, 20], ranks=3)
    assert (whole - averaged).abs().max() < 1e-14


def test_counts_are_added_over_ranks() -> None:
    def other_rank(vector: Tensor) -> None:
        vector += torch.tensor([10.0, 20.0])

    counts = sum_counts([{"a": 3, "b": torch.tensor(5)}, {"a": 4, "b": torch.tensor(6)}], other_rank)
    assert [float(n) for n in counts.values()] == [17, 31]


def test_metrics_are_weighted_means_over_all_micro_batches() -> None:
    first = {"a": LossTerm(torch.tensor(6.0), 2), "b": LossTerm(torch.tensor(3), 4, weight=0.0)}
    second = {"a": LossTerm(torch.tensor(2.0), torch.tensor(2), 1.0), "b": LossTerm(torch.tensor(1), 4, weight=0.0)}
    assert step_metrics([first, second]) == {"loss": 2.0, "a": 2.0, "b": 0.5}

    def double(table: Tensor) -> None:
        table *= 2

    assert step_metrics([first, second], double) == {"loss": 2.0, "a": 2.0, "b": 0.5}
    assert step_metrics([]) == {}


def test_no_prediction_is_no_division_by_zero() -> None:
    total = torch.zeros((), requires_grad=True)
    empty = {"a": LossTerm(total * 1, 0)}
    normalised_loss(empty, sum_counts([{"a": 0}])).backward()
    assert total.grad is not None
    assert math.isfinite(total.grad.item())
    micro_terms = step_metrics([empty])
    assert math.isnan(micro_terms["a"])
    assert micro_terms["loss"] == 0
