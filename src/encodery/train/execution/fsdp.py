"""Fully sharded data parallelism: each process holds a shard of the weights, gradients and optimiser state.

Sources: ZeRO, arXiv:1910.02054; PyTorch FSDP, arXiv:2304.11277. Use it (`train.fsdp=true`) if the model and its
optimiser state do not fit on one device; otherwise a whole copy on every device is faster. `torch.distributed.fsdp`
gathers the weights of a layer while that layer runs and adds the gradients up, each rank keeping its shard of the sum.
Optimisers, averages and checkpoints see `DTensor`s under the same names. Layers are sharded one by one, everything
else (embeddings, heads, the objective) together. Losses are those of whole weights up to the order of additions. In a
single process nothing is sharded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.blocks import BlockModule
from encodery.model.encoder import Encoder
from encodery.objectives import LossTerm
from encodery.train.distributed import DistributedContext
from encodery.train.execution import Execution, PreparedStep, RunningExecution, StepTerms
from encodery.train.execution._micro_batches import RunningPlain, accumulate_micro_batches
from encodery.train.job import Job
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class Fsdp(Execution):
    """Weights, gradients and optimiser state sharded over the processes."""

    def selected(self, train: TrainSettings) -> bool:
        """`train.fsdp`."""
        return train.fsdp

    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """Optimiser offload, and in several processes: jobs and optimisers that need whole weights."""
        reasons = []
        if settings.train.optimizer_offload:
            reasons.append(
                "train.optimizer_offload needs whole weights; with train.fsdp the optimiser state is sharded too."
            )
        if machine.world_size() > 1 and not job.supports_fsdp:
            reasons.append(f"train.fsdp: the job '{job.name()}' needs whole weights on every process.")
        optim = settings.optim
        if machine.world_size() > 1 and optim is not None and not optim.supports_fsdp:
            reasons.append(f"train.fsdp: optim.is = '{name_of(optim)}' needs whole matrices. Use adamw.")
        return reasons

    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """Shards the weights, which every rank must hold alike, over the ranks."""
        job.module.to(device)
        if distributed.mesh is None:
            return RunningPlain(job)
        if any(isinstance(module, Encoder) and module.shares_layers for module in job.module.modules()):
            raise SettingsError("train.fsdp: needs layers that do not share weights (model.layer_groups).")
        return _RunningFsdp(job, distributed.mesh)


class _RunningFsdp(RunningExecution):
    def __init__(self, job: Job, mesh: DeviceMesh) -> None:
        self.job, self.root = job, _ShardedJob(job, mesh)

    def accumulate(self, step: PreparedStep) -> StepTerms:
        return accumulate_micro_batches(self.job, self.root.terms, step)

    @contextlib.contextmanager
    def whole_weights(self) -> Iterator[None]:
        for part in self.root.parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            with torch.no_grad():
                yield
        finally:
            for part in self.root.parts:
                part.reshard()
                part.set_reshard_after_forward(not isinstance(part, _ShardedJob), recurse=False)

    @contextlib.contextmanager
    def full_parameters(self) -> Iterator[None]:
        sharded: list[tuple[nn.Module, str, nn.Parameter]] = []
        whole: dict[int, nn.Parameter] = {}
        for module in self.job.module.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(parameter, DTensor):
                    sharded.append((module, name, parameter))
                    whole.setdefault(id(parameter), nn.Parameter(parameter.full_tensor().detach(), requires_grad=False))
        for module, name, parameter in sharded:
            module._parameters[name] = whole[id(parameter)]
        try:
            yield
        finally:
            for module, name, parameter in sharded:
                module._parameters[name] = parameter


class _ShardedJob(nn.Module):
    """Runs a job with sharded weights. Its parameters are those of the job's module, with one more name in front."""

    def __init__(self, job: Job, mesh: DeviceMesh) -> None:
        super().__init__()
        self.inner = job.module
        self.job = job
        self.layers = [module for module in job.module.modules() if isinstance(module, BlockModule)]
        for layer in self.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        for part in self.parts:
            # Terms are sums over the counts of all ranks, so their gradients are added, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

    @property
    def parts(self) -> list[FSDPModule]:
        """What is gathered at once: each layer, and the rest."""
        return [part for part in (*self.layers, self) if isinstance(part, FSDPModule)]

    def forward(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, LossTerm]]:
        """The totals on their own, since FSDP finds tensors that need a backward pass in plain containers only."""
        terms = dict(self.job.terms(batch))
        return {name: term.total for name, term in terms.items()}, terms

    def terms(self, batch: Any) -> Mapping[str, LossTerm]:
        """`Job.terms` with the weights gathered where they are used."""
        totals, terms = self(batch)
        return {name: LossTerm(totals[name], term.count, term.weight) for name, term in terms.items()}
