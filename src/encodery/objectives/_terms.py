"""How the losses of micro-batches and ranks add up to the loss of a step.

A term is a sum and a count, never a mean: the loss of a step is Σ weight · Σ total / Σ count, the inner sums taken over
all micro-batches and all ranks. A mean of means would give a prediction more weight the fewer others are in its
micro-batch.

A step calls `prepare` for every micro-batch, sums their `counts` (`sum_counts`), runs the objective on each micro-batch
and backpropagates the `normalised_loss` of its terms; the gradients add up to that of the one large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Count = Tensor | int | float
SumOverRanks = Callable[[Tensor], None]


@dataclass(frozen=True, eq=False)
class LossTerm:
    """`total`: a scalar sum, with a gradient if the term is learned from; `count`: the number of items summed;
    `weight` in the loss. A term of weight 0 is only reported (accuracy: the number correct, of how many)."""

    total: Tensor
    count: Count
    weight: float = 1.0


def sum_counts(counts: Iterable[Mapping[str, Count]], sum_over_ranks: SumOverRanks | None = None) -> dict[str, Count]:
    """Add up the counts of all micro-batches of a step; `sum_over_ranks` adds a tensor over the ranks in place."""
    sums: dict[str, Count] = {}
    for micro_batch in counts:
        for name, n in micro_batch.items():
            sums[name] = sums[name] + n if name in sums else n
    if sum_over_ranks is None or not sums:
        return sums
    vector = _vector(sums.values())
    sum_over_ranks(vector)
    return dict(zip(sums, vector, strict=True))


def normalised_loss(terms: Mapping[str, LossTerm], counts: Mapping[str, Count], num_ranks: int = 1) -> Tensor:
    """Return what a micro-batch adds to the step's loss: Σ weight · total / counts[name], a scalar to backpropagate.

    `counts` are those of the whole step, from `sum_counts`. `num_ranks`: 1 if gradients are summed over the ranks,
    their number if gradients are averaged, as DDP does.
    """
    learned = [(name, term) for name, term in terms.items() if term.weight]
    return torch.stack([term.total * _scale(term, counts[name], num_ranks) for name, term in learned]).sum()


def step_metrics(
    steps: Iterable[Mapping[str, LossTerm]], sum_over_ranks: SumOverRanks | None = None
) -> dict[str, float]:
    """Return Σ total / Σ count of every term over micro-batches and ranks, and their weighted sum as `loss`.

    Waits for the device, once. A term that was never counted is NaN and is left out of the loss.
    """
    totals: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    for terms in steps:
        for name, term in terms.items():
            pair = _vector([term.total.detach(), term.count])
            totals[name] = totals[name] + pair if name in totals else pair
            weights[name] = term.weight
    if not totals:
        return {}
    table = torch.stack(list(totals.values()))
    if sum_over_ranks is not None:
        sum_over_ranks(table)
    sums = dict(zip(totals, table.tolist(), strict=True))
    means = {name: total / n if n else float("nan") for name, (total, n) in sums.items()}
    loss = sum(weights[name] * mean for name, mean in means.items() if weights[name] and sums[name][1])
    return {"loss": loss, **means}


def _vector(values: Iterable[Count]) -> Tensor:
    """The values in double precision, on the device of the first tensor among them."""
    items = list(values)
    device = next((v.device for v in items if isinstance(v, Tensor)), torch.device("cpu"))
    return torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in items])


def _scale(term: LossTerm, count: Count, num_ranks: int) -> Tensor | float:
    """weight · num_ranks / count, rounded once, to the precision of the total."""
    if isinstance(count, Tensor):
        return (term.weight * num_ranks / count.double().clamp(min=1)).to(term.total.dtype)
    return term.weight * num_ranks / max(count, 1)
