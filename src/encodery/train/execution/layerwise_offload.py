"""Layer-by-layer gradient accumulation: only the weights of one layer are on the device. arXiv:2106.02679

All micro-batches of a step go through a layer before any goes through the next (section 2 of the paper). Use it
(`train.layerwise_offload=true`) if the model exceeds the device. The weights of a layer move to the device once for
the forward and once for the backward pass of a step, however many micro-batches it has, and move back with their
gradient, which stays in main memory with the optimiser state; the optimiser runs there. Embeddings, final norm, head
and objective stay on the device. Of a micro-batch only the inputs of the layers are kept; a layer is computed again in
the backward pass with the same dropout. Losses are those of `plain`, gradients up to the order of additions. Differs
from the paper: one process, no pipeline.

On a CPU weights are copied all the same, and only memory for activations is saved; that is how this is tested. **It was
never run on a CUDA device.** Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.errors import SettingsError
from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, PreparedStep, RunningExecution, StepTerms
from encodery.train.execution._layers import LayerSteps
from encodery.train.job import Job
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class LayerwiseOffload(Execution):
    """The weights of one layer at a time on the device."""

    def selected(self, train: TrainSettings) -> bool:
        """`train.layerwise_offload`."""
        return train.layerwise_offload

    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """Jobs that run their model elsewhere than in steps and scores."""
        if job.supports_layerwise:
            return []
        return [f"train.layerwise_offload: the job '{job.name()}' needs the whole model on the device."]

    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """Moves everything but the layers to the device. Raises `SettingsError` if something is between the layers."""
        parts = job.layerwise_parts()
        if parts is None:
            raise SettingsError(
                "train.layerwise_offload: needs a model that reads its batch layer by layer. Use an objective such as "
                "mlm, and no trained vectors in front of the first layer."
            )
        if parts[0].encoder.shares_layers:
            raise SettingsError("train.layerwise_offload: needs layers that do not share weights (model.layer_groups).")
        return _RunningLayerwise(job, LayerSteps(*parts, job.module, device))


class _RunningLayerwise(RunningExecution):
    def __init__(self, job: Job, layers: LayerSteps) -> None:
        self.job, self.layers = job, layers

    def accumulate(self, step: PreparedStep) -> StepTerms:
        return self.layers.run(step)
