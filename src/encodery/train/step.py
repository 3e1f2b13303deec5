"""One step's arithmetic: counts over the ranks, forward and backward of each micro-batch, gradients added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from encodery.base.machine import derive_seed
from encodery.objectives import Count, LossTerm, normalised_loss, sum_counts
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job, MicroBatch, StepBatches
from encodery.train.precision import NumberFormat, autocast
from encodery.train.static_shapes import copy_gradients

StepTerms = list[dict[str, LossTerm]]


def forward_backward(
    job: Job,
    batches: StepBatches,
    distributed: DistributedContext,
    number_format: NumberFormat,
    seed: int,
    step: int,
    loss_scale: float = 1.0,
) -> StepTerms:
    """Leave the gradient of `scale` times the step's loss in the parameters; the terms of each micro-batch, without a
    graph.

    Dropout draws from `seed`, `step` and the micro-batch's number, whichever rank runs it.
    """
    counts = sum_counts(
        (job.counts(micro.batch) for micro in batches.micro_batches),
        distributed.all_reduce if distributed.world > 1 else None,
    )
    seeds = [derive_seed(seed, "forward", step, micro.index) for micro in batches.micro_batches]
    if job.layered is not None:
        terms = job.layered.step(
            [micro.batch for micro in batches.micro_batches], counts, number_format, seeds, loss_scale
        )
    else:
        terms = []
        for micro, mine in zip(batches.micro_batches, seeds, strict=True):
            terms.append(_micro(job, micro, counts, number_format, mine, loss_scale))
            if job.replays and len(terms) == 1:
                copy_gradients(job.module.parameters())
    distributed.all_reduce_gradients(p for p in job.module.parameters() if p.requires_grad)
    return terms


def _micro(
    job: Job, micro: MicroBatch, counts: Mapping[str, Count], chosen: NumberFormat, seed: int, scale: float
) -> dict[str, LossTerm]:
    torch.manual_seed(seed)
    with autocast(chosen, next(job.module.parameters()).device):
        terms = job.run(micro.batch)
    loss = normalised_loss(terms, counts)
    (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
    return {name: LossTerm(term.total.detach(), term.count, term.weight) for name, term in terms.items()}
