"""A compiled step whose kernels are recorded once and replayed together from then on (CUDA graphs, by `torch.compile`).

Use it (`train.cuda_graphs=true`, which implies `train.compile` and `train.static_shapes`) if kernels are too small to
hide the time of their launches. Every result is written where the next micro-batch will write its own, so whatever must
last is copied. **It was not run on a GPU yet.**"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, PreparedStep, RunningExecution, StepTerms
from encodery.train.execution._graph import CompiledTerms
from encodery.train.execution._micro_batches import accumulate_micro_batches
from encodery.train.job import Job
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class CudaGraphs(Execution):
    """One recorded graph for each micro-batch."""

    def selected(self, train: TrainSettings) -> bool:
        """`train.cuda_graphs`."""
        return train.cuda_graphs

    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """Devices that record no kernels."""
        return [] if device.type == "cuda" else ["train.cuda_graphs: needs a CUDA device, whose kernels it records."]

    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """Nothing is recorded before the first step."""
        job.module.to(device)
        return _RunningCudaGraphs(job, CompiledTerms(job, cuda_graphs=True))


class _RunningCudaGraphs(RunningExecution):
    def __init__(self, job: Job, terms: CompiledTerms) -> None:
        self.job, self.terms = job, terms

    def accumulate(self, step: PreparedStep) -> StepTerms:
        return accumulate_micro_batches(
            self.job, self.terms, step, after_first=lambda: copy_gradients(self.job.module.parameters())
        )


def copy_gradients(parameters: Iterable[Tensor]) -> None:
    """Move gradients out of the memory that a replayed graph will write again; later gradients are added to the
    copies."""
    for p in parameters:
        if p.grad is not None:
            p.grad = p.grad.clone()
