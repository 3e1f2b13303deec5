"""The arithmetic of one step: counts over the ranks, forward and backward passes, gradients summed over the ranks."""

from __future__ import annotations

from encodery.base.machine import derive_seed
from encodery.objectives import sum_counts
from encodery.train.distributed import DistributedContext
from encodery.train.execution import PreparedStep, RunningExecution, StepTerms
from encodery.train.job import StepBatches
from encodery.train.precision import NumberFormat


def forward_backward(
    execution: RunningExecution,
    batches: StepBatches,
    distributed: DistributedContext,
    number_format: NumberFormat,
    seed: int,
    step: int,
    loss_scale: float = 1.0,
) -> StepTerms:
    """Leave the gradient of `loss_scale` times the loss of the step in the parameters, equal on all ranks.

    Dropout draws from `seed`, `step` and the index of the micro-batch, whichever rank runs it. Returns the loss terms
    of this rank's micro-batches."""
    job = execution.job
    counts = sum_counts(
        (job.counts(micro.batch) for micro in batches.micro_batches),
        distributed.all_reduce if distributed.world > 1 else None,
    )
    seeds = [derive_seed(seed, "forward", step, micro.index) for micro in batches.micro_batches]
    micro_batches = [micro.batch for micro in batches.micro_batches]
    terms = execution.accumulate(PreparedStep(micro_batches, counts, seeds, number_format, loss_scale))
    distributed.all_reduce_gradients(p for p in job.module.parameters() if p.requires_grad)
    return terms
