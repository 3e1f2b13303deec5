"""Several processes as one: sums over ranks, gradients added up, one will about stopping.

Started by torchrun with the same command; gloo on CPUs, NCCL between CUDA devices. Every rank plans the whole step and
takes its share of the micro-batches; the gradients, already divided by the count of all ranks, are added in buckets
after the last micro-batch (or in the backward pass, where weights are dealt: `sharding`). Only rank 0 writes, but for
the rows of dealt weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import rendezvous

from encodery.base import machine

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

BUCKET_BYTES = 25 << 20


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run as this one sees them. A team of one does nothing. `mesh`: the ranks, where weights are
    dealt over them (`sharding`); None where each has a copy."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up a tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients over the ranks, in place; a parameter without one counts as zero.

        Where weights are dealt over the ranks, the backward pass has done so."""
        if self.world == 1 or self.mesh is not None:
            return
        grads = []
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        sent = []
        for bucket in _buckets(grads):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in sent:
            if work is not None:
                work.wait()
            parts = torch.split(flat, [grad.numel() for grad in bucket])
            torch._foreach_copy_(bucket, [part.view_as(grad) for part, grad in zip(parts, bucket, strict=True)])

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The rows (B, …) of every rank, one rank after another; B may differ. Only this rank's own carry a gradient:
        where all ranks compute the same loss of all rows, the gradients of their weights add up to that of the loss."""
        if self.world == 1:
            return tensor
        count = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.empty_like(count) for _ in range(self.world)]
        dist.all_gather(counts, count)
        sizes = [int(n) for n in counts]
        filled = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        filled[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(filled) for _ in range(self.world)]
        dist.all_gather(parts, filled)
        return torch.cat([tensor if rank == self.rank else parts[rank][: sizes[rank]] for rank in range(self.world)])

    def synchronise(self, values: Sequence[float], stop: bool) -> tuple[Sequence[float], bool]:
        """What rank 0 said, and whether anyone was asked to stop: the same answer on every rank."""
        if self.world == 1:
            return values, stop
        heard = torch.tensor([*(values if self.is_main else [0.0] * len(values)), float(stop)], dtype=torch.float64)
        dist.all_reduce(heard)
        values = heard.tolist()
        return values[:-1], values[-1] > 0

    def barrier(self) -> None:
        """Go on when all ranks are here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def init_distributed(device: torch.device, fsdp: bool = False) -> Iterator[DistributedContext]:
    """The team torchrun made this process a member of; a team of one without torchrun. `shard`: it deals weights."""
    world = machine.world_size()
    if world == 1:
        yield DistributedContext()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Restarted processes share torchrun's store with those that were lost, whose addresses still stand in it.
    store, rank, _ = next(rendezvous("env://"))
    named = distributed_c10d.PrefixStore(f"start {machine.restart_count()}", store)
    dist.init_process_group(backend, store=named, rank=rank, world_size=world)
    try:
        mesh = dist.device_mesh.init_device_mesh(device.type, (world,)) if fsdp else None
        yield DistributedContext(machine.rank(), world, mesh)
    finally:
        dist.destroy_process_group()


def _buckets(grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, up to a bucket's size each."""
    held: list[Tensor] = []
    size = 0
    for grad in grads:
        other = held and (grad.dtype, grad.device) != (held[0].dtype, held[0].device)
        if held and (other or size + grad.nbytes > BUCKET_BYTES):
            yield held
            held, size = [], 0
        held.append(grad)
        size += grad.nbytes
    if held:
        yield held
