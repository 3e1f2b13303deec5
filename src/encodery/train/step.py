"""One step's arithmetic: counts over the ranks, forward and backward of each micro-batch, gradients added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from encodery.base.machine import derive_seed
from encodery.objectives import Count, Term, count_all, share
from encodery.train.distributed import Team
from encodery.train.job import Job, Micro, Work
from encodery.train.precision import Format, context
from encodery.train.static import copy_gradients

Terms = list[dict[str, Term]]


def backward(job: Job, work: Work, team: Team, chosen: Format, seed: int, step: int, scale: float = 1.0) -> Terms:
    """Leave the gradient of `scale` times the step's loss in the parameters; the terms of each micro-batch, without a
    graph.

    Dropout draws from `seed`, `step` and the micro-batch's number, whichever rank runs it.
    """
    counts = count_all((job.counts(micro.batch) for micro in work.micros), team.sum if team.world > 1 else None)
    seeds = [derive_seed(seed, "forward", step, micro.number) for micro in work.micros]
    if job.layered is not None:
        terms = job.layered.step([micro.batch for micro in work.micros], counts, chosen, seeds, scale)
    else:
        terms = []
        for micro, mine in zip(work.micros, seeds, strict=True):
            terms.append(_micro(job, micro, counts, chosen, mine, scale))
            if job.replays and len(terms) == 1:
                copy_gradients(job.module.parameters())
    team.sum_gradients(p for p in job.module.parameters() if p.requires_grad)
    return terms


def _micro(
    job: Job, micro: Micro, counts: Mapping[str, Count], chosen: Format, seed: int, scale: float
) -> dict[str, Term]:
    torch.manual_seed(seed)
    with context(chosen, next(job.module.parameters()).device):
        terms = job.run(micro.batch)
    loss = share(terms, counts)
    (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
    return {name: Term(term.total.detach(), term.count, term.weight) for name, term in terms.items()}
