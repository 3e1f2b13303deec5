"""A step as one graph that is compiled once (`torch.compile`), on micro-batches of one fixed shape.

Use it (`train.compile=true`, which implies `train.static_shapes`) on an accelerator, where the graph runs without
waiting for the host. On a CPU it is slower than `plain`, since attention inside the graph compares all tokens of a
micro-batch with each other; the run says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, PreparedStep, RunningExecution, StepTerms
from encodery.train.execution._graph import CompiledTerms
from encodery.train.execution._micro_batches import accumulate_micro_batches
from encodery.train.job import Job
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings

SLOWER_ON_CPU = (
    "train.compile=true is slower than train.compile=false on a CPU: inside the graph attention compares all tokens of "
    "a micro-batch with each other."
)


@dataclass(frozen=True, kw_only=True)
class Compiled(Execution):
    """One compiled graph for each micro-batch."""

    def selected(self, train: TrainSettings) -> bool:
        """`train.compile`, without `train.cuda_graphs`."""
        return train.compile and not train.cuda_graphs

    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """None besides fixed shapes, which the launcher checks."""
        return []

    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """Nothing is compiled before the first step."""
        job.module.to(device)
        return _RunningCompiled(job, device)


class _RunningCompiled(RunningExecution):
    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device, self.terms = job, device, CompiledTerms(job)

    def accumulate(self, step: PreparedStep) -> StepTerms:
        return accumulate_micro_batches(self.job, self.terms, step)

    def warnings(self) -> list[str]:
        return [SLOWER_ON_CPU] if self.device.type == "cpu" else []
