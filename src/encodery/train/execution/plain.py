"""The default: every rank holds all weights, and every micro-batch goes through the whole model by itself.

Use it if the model, its gradients and the optimiser state fit on the device. It is what runs if no setting of `train`
selects another strategy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, RunningExecution
from encodery.train.execution._micro_batches import RunningPlain
from encodery.train.job import Job
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Plain(Execution):
    """Whole weights on every rank."""

    supports_resizing: ClassVar[bool] = True

    def selected(self, train: TrainSettings) -> bool:
        """Never selected by a setting."""
        return False

    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """None: every job can run so."""
        return []

    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """See `Execution`."""
        job.module.to(device)
        return RunningPlain(job)
