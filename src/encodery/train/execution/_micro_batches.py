"""One micro-batch after another: forward, backward, gradients added up. What most strategies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from encodery.objectives import LossTerm, normalised_loss
from encodery.train.execution import PreparedStep, RunningExecution, StepTerms
from encodery.train.job import Job
from encodery.train.precision import autocast

Terms = Callable[[Any], Mapping[str, LossTerm]]
"""From a prepared micro-batch to its loss terms, as `Job.terms`."""


def accumulate_micro_batches(
    job: Job, terms: Terms, step: PreparedStep, after_first: Callable[[], None] | None = None
) -> StepTerms:
    """Run `terms` and a backward pass for each micro-batch of a step; `after_first` is called after the first one."""
    device = next(job.module.parameters()).device
    results: StepTerms = []
    for batch, seed in zip(step.micro_batches, step.seeds, strict=True):
        torch.manual_seed(seed)
        with autocast(step.number_format, device):
            batch_terms = terms(batch)
        results.append(backward(batch_terms, step))
        if after_first is not None and len(results) == 1:
            after_first()
    return results


def backward(terms: Mapping[str, LossTerm], step: PreparedStep) -> dict[str, LossTerm]:
    """The backward pass from the loss of a micro-batch; returns its terms without a graph."""
    loss = normalised_loss(terms, step.counts)
    (loss if step.loss_scale == 1.0 else loss * step.loss_scale).backward()  # type: ignore[no-untyped-call]
    return {name: LossTerm(term.total.detach(), term.count, term.weight) for name, term in terms.items()}


class RunningPlain(RunningExecution):
    """Every rank holds all weights, and every micro-batch goes through the whole model."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def accumulate(self, step: PreparedStep) -> StepTerms:
        """See `RunningExecution`."""
        return accumulate_micro_batches(self.job, self.job.terms, step)
