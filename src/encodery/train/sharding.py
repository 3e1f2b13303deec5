"""Weights dealt over the ranks: each process holds rows of every weight, of its gradient and of its moments (ZeRO,
arXiv 1910.02054; PyTorch FSDP, arXiv 2304.11277).

Off by default (`train.fsdp`): a whole copy everywhere is faster as long as it fits. `torch.distributed.fsdp` gathers a
layer's weights for as long as the layer is at work and adds the gradients up, each rank keeping its rows of the sum;
optimisers, averages and checkpoints see `DTensor`s under the same names. Layers are dealt one by one, all the rest
(embeddings, heads, the objective) together. Losses are those of whole weights up to the order of additions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from encodery.base.errors import SettingsError
from encodery.model.blocks import BlockModule
from encodery.objectives import LossTerm
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job


class Sharded(nn.Module):
    """What runs a job whose weights are dealt; its parameters are those of the job's module, under one more name."""

    def __init__(self, job: Job, mesh: DeviceMesh) -> None:
        super().__init__()
        self.inner = job.module
        self.job = job
        self.layers = [module for module in job.module.modules() if isinstance(module, BlockModule)]
        for layer in self.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        for part in self.parts:
            # Terms are sums over the counts of all ranks: their gradients are added, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

    @property
    def parts(self) -> list[FSDPModule]:
        """Everything that is gathered at once: the layers and the rest."""
        return [part for part in (*self.layers, self) if isinstance(part, FSDPModule)]

    def forward(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, LossTerm]]:
        """The totals apart, since only tensors in plain containers are seen to need a backward pass."""
        terms = dict(self.job.terms(batch))
        return {name: term.total for name, term in terms.items()}, terms

    def run(self, batch: Any) -> Mapping[str, LossTerm]:
        """`Job.terms` with the weights gathered where they are used."""
        totals, terms = self(batch)
        return {name: LossTerm(totals[name], term.count, term.weight) for name, term in terms.items()}


def apply_fsdp(job: Job, team: DistributedContext) -> None:
    """Deal the weights of a job, which every rank holds alike, over the ranks. Does nothing in a team of one.

    Raises `SettingsError` for a job that uses its model elsewhere than in `terms`.
    """
    if team.mesh is None:
        return
    if not job.supports_fsdp:
        raise SettingsError(f"train.fsdp: {type(job).__name__} needs whole weights on every rank; leave it off.")
    sharded = Sharded(job, team.mesh)
    job.sharded, job.around = sharded, sharded.run


@contextlib.contextmanager
def unsharded(job: Job) -> Iterator[None]:
    """Within it every rank holds all weights, and the model may run on one rank and not on another; without a graph."""
    root = job.sharded
    if not isinstance(root, Sharded):
        yield
        return
    for part in root.parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in root.parts:
            part.reshard()
            part.set_reshard_after_forward(not isinstance(part, Sharded), recurse=False)


@contextlib.contextmanager
def gathered(job: Job) -> Iterator[None]:
    """Within it the module's parameters are whole tensors, to be written; the model cannot run."""
    if job.sharded is None:
        yield
        return
    held: list[tuple[nn.Module, str, nn.Parameter]] = []
    whole: dict[int, nn.Parameter] = {}
    for module in job.module.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                held.append((module, name, parameter))
                whole.setdefault(id(parameter), nn.Parameter(parameter.full_tensor().detach(), requires_grad=False))
    for module, name, parameter in held:
        module._parameters[name] = whole[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter
