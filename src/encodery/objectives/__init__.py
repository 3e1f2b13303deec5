"""What a model learns from: a batch is prepared, the model runs, the loss comes back as named terms.

A term is a sum and a count, never a mean: the loss of a step is Σ weight · Σ total / Σ count, the inner sums running
over all micro-batches and all ranks. A mean of means would weigh a prediction by how few others its micro-batch
happened to hold. `count_all`, `share` and `figures` are this rule; the training loop has no other.

The order of a step: `prepare` every micro-batch, sum `counts` over them and over the ranks (`count_all`), then for
each micro-batch run the objective and go backward from `share` of its terms; the gradients add up to that of the one
big batch. Shape letters: T tokens, M predicted rows.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.network import Model, ModelSettings
from encodery.model.shape import Batch, Output

Count = Tensor | int | float
SumOverRanks = Callable[[Tensor], None]


@dataclass(frozen=True, eq=False)
class LossTerm:
    """`total`: a scalar sum (with a gradient where the term is learned from); `count`: over how many; `weight` in the
    loss. A term of weight 0 is only reported (an accuracy: how many right, of how many)."""

    total: Tensor
    count: Count
    weight: float = 1.0


class Objective(Part):
    """Contract of an objective; a part holds its settings and builds the module that does the work."""

    @abc.abstractmethod
    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """The module for such a model, with whatever weights the objective needs beside the model's; `start` or a
        checkpoint fills them."""

    def num_parameters(self, model: ModelSettings) -> int:
        """How many weights that is."""
        return 0

    def max_predictions(self, tokens: int) -> int | None:
        """At how many rows at most something is predicted, of any batch of so many tokens; None where a batch's shapes
        depend on what is in it.

        Where it is a number (`train.static`), `prepare` leaves tokens and sequences as many as they were and puts into
        `extra` nothing but `rows` and `targets` of that many entries or fewer; targets may be `corrupt.IGNORED`, which
        `counts` and `loss` leave out; and the objective, run on it, is one graph that nothing on the host decides.
        Raises `SettingsError` where another setting would allow a number.
        """
        return None


class ObjectiveModule(nn.Module):
    """An objective at work. Its own weights are trained with the model's and fall off at export.

    `plain`: whether the model, as it is by itself, sees hidden tokens as it did in training. Where it does not, what
    its masked-language-model head learnt is of no use without the objective, and falls off too.
    """

    keeps_mlm_head: bool = True

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill the objective's own weights with what learning starts from."""

    @abc.abstractmethod
    def prepare(self, batch: Batch, generator: torch.Generator, progress: float) -> Batch:
        """The batch as the model shall see it, with what `loss` needs in `extra`. `progress` in 0..1 of the run."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Count]:
        """The count of every learned term `loss` will return for this prepared batch, known before the model runs."""

    @abc.abstractmethod
    def loss(self, model: Model, output: Output, batch: Batch) -> dict[str, LossTerm]:
        """The terms of a prepared batch, from the model's output for it."""

    def encode(self, model: Model, batch: Batch) -> Output:
        """What is made of a batch in whose ids tokens are hidden; also how held-out text is read."""
        output: Output = model(batch)
        return output

    def forward(self, model: Model, batch: Batch) -> dict[str, LossTerm]:
        """Run the model on a prepared batch and return `loss`; an objective of several passes says so here."""
        return self.loss(model, self.encode(model, batch), batch)

    def flops(self, model: ModelSettings, length: float, progress: float) -> float:
        """Floating-point operations of a step, forward and backward, per token of the batch before `prepare`; `length`
        as in `count.flops`."""
        return count.flops_per_token(model, length)

    def rates(self, progress: float) -> dict[str, float]:
        """What the objective's schedules say at `progress`, for the log (`mask_rate`)."""
        return {}


def sum_counts(counts: Iterable[Mapping[str, Count]], sum_over_ranks: SumOverRanks | None = None) -> dict[str, Count]:
    """The counts of all micro-batches of a step, added up; `sum_over_ranks` adds a tensor over the ranks in place."""
    added: dict[str, Count] = {}
    for one in counts:
        for name, n in one.items():
            added[name] = added[name] + n if name in added else n
    if sum_over_ranks is None or not added:
        return added
    vector = _vector(added.values())
    sum_over_ranks(vector)
    return dict(zip(added, vector, strict=True))


def normalised_loss(terms: Mapping[str, LossTerm], counts: Mapping[str, Count], num_ranks: int = 1) -> Tensor:
    """A micro-batch's share of the step's loss: Σ weight · total / counts[name], a scalar to go backward from.

    `counts` are those of the whole step, from `count_all`. `ranks`: 1 where gradients are added over the ranks, their
    number where they are averaged, as DDP does.
    """
    learned = [(name, term) for name, term in terms.items() if term.weight]
    return torch.stack([term.total * _scale(term, counts[name], num_ranks) for name, term in learned]).sum()


def step_metrics(
    steps: Iterable[Mapping[str, LossTerm]], sum_over_ranks: SumOverRanks | None = None
) -> dict[str, float]:
    """Σ total / Σ count of every term over micro-batches and ranks, and their weighted sum as `loss`.

    Waits for the device, once. A term that was never counted is NaN and stays out of the loss.
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
    found = list(values)
    device = next((v.device for v in found if isinstance(v, Tensor)), torch.device("cpu"))
    return torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in found])


def _scale(term: LossTerm, count: Count, ranks: int) -> Tensor | float:
    """weight · ranks / count, rounded once, to the precision of the total."""
    if isinstance(count, Tensor):
        return (term.weight * ranks / count.double().clamp(min=1)).to(term.total.dtype)
    return term.weight * ranks / max(count, 1)
