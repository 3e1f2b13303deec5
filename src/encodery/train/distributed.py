"""Several processes that train together: sums over ranks, summed gradients, one decision about stopping.

torchrun starts them with the same command; gloo connects CPUs, NCCL connects CUDA devices. Every rank plans the whole
step and computes its part of the micro-batches. The gradients, already divided by the count of all ranks, are summed in
buckets after the last micro-batch (with `execution.fsdp`, in the backward pass). Only rank 0 writes files, apart from
the shards of sharded weights."""

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
    """The processes of a run as this one sees them; with a `world` of one nothing is communicated. `mesh`: the ranks
    over which weights are sharded; None if each rank has a copy."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum a tensor over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients over the ranks, in place; a parameter without a gradient counts as zero.

        With sharded weights the backward pass has done so."""
        if self.world == 1 or self.mesh is not None:
            return
        grads = []
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            grads.append(p.grad)
        pending = []
        for bucket in _buckets(grads):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in pending:
            if work is not None:
                work.wait()
            parts = torch.split(flat, [grad.numel() for grad in bucket])
            torch._foreach_copy_(bucket, [part.view_as(grad) for part, grad in zip(parts, bucket, strict=True)])

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Concatenate tensors (B, …) of all ranks along the first axis, in the order of ranks; B may differ.

        Only the part of this rank carries a gradient: if all ranks compute the same loss of the whole, the gradients of
        their weights add up to that of the loss."""
        if self.world == 1:
            return tensor
        count = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.empty_like(count) for _ in range(self.world)]
        dist.all_gather(counts, count)
        sizes = [int(n) for n in counts]
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([tensor if rank == self.rank else parts[rank][: sizes[rank]] for rank in range(self.world)])

    def synchronise(self, values: Sequence[float], stop: bool) -> tuple[Sequence[float], bool]:
        """The values of rank 0, and whether any rank wants to stop: the same answer on every rank."""
        if self.world == 1:
            return values, stop
        own = list(values) if self.is_main else [0.0] * len(values)
        summed = torch.tensor([*own, float(stop)], dtype=torch.float64)
        dist.all_reduce(summed)
        result = summed.tolist()
        return result[:-1], result[-1] > 0

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        if self.world > 1:
            dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def init_distributed(device: torch.device, fsdp: bool = False) -> Iterator[DistributedContext]:
    """The context of this process among those that torchrun started; a single process without torchrun. `fsdp`: with a
    mesh over which weights are sharded."""
    world = machine.world_size()
    if world == 1:
        yield DistributedContext()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Restarted processes share torchrun's store with those that were lost, whose addresses are still in it.
    store, rank, _ = next(rendezvous("env://"))
    prefixed = distributed_c10d.PrefixStore(f"start {machine.restart_count()}", store)
    dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world)
    try:
        mesh = dist.device_mesh.init_device_mesh(device.type, (world,)) if fsdp else None
        yield DistributedContext(machine.rank(), world, mesh)
    finally:
        dist.destroy_process_group()


def _buckets(grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype and device, up to the size of a bucket."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        differs = bucket and (grad.dtype, grad.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (differs or size + grad.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.nbytes
    if bucket:
        yield bucket
