"""The tensors of a checkpoint with sharded weights: each rank writes its shards, and another number of ranks reads its
own.

By `torch.distributed.checkpoint`, but never in its usual files, whose metadata is a pickle: its safetensors writer
leaves one file per rank, with the position of every piece in the header of the file. Names are `group/name`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from encodery.base.errors import ArtifactError

LayoutLike = Callable[[str, str], Tensor | None]
"""Group and name -> the tensor of this run whose sharding the named tensor shall have."""
TensorGroups = dict[str, dict[str, Tensor]]


def write_shards(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write this rank's shards of every tensor; all ranks call it. A tensor that is not sharded is written once."""
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    with _first_failure(), _no_warnings():
        save(flat, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shards(folder: Path) -> TensorGroups:
    """Every tensor whole, in this process alone. Raises `ArtifactError` naming the folder if it is damaged."""
    tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in _stored_tensors(folder).items()}
    with _first_failure(), _no_warnings():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return _grouped(tensors)


def read_own_shards(folder: Path, like: LayoutLike) -> TensorGroups:
    """This rank's shard of every tensor that is sharded in `like`, the others whole; all ranks call it."""
    tensors: dict[str, Tensor] = {}
    for full_name, (size, dtype) in _stored_tensors(folder).items():
        group, _, name = full_name.partition("/")
        target = like(group, name)
        sharded = isinstance(target, DTensor) and target.shape == size
        tensors[full_name] = (
            torch.empty_like(target, dtype=dtype) if sharded and target is not None else torch.empty(size, dtype=dtype)
        )
    with _first_failure(), _no_warnings():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    return _grouped(tensors)


def distribute(groups: Mapping[str, Mapping[str, Tensor]], like: LayoutLike) -> TensorGroups:
    """Shard tensors that every rank holds whole, as `read_own_shards` reads them."""
    return {
        group: {name: _shard(tensor, like(group, name)) for name, tensor in tensors.items()}
        for group, tensors in groups.items()
    }


def _shard(tensor: Tensor, target: Tensor | None) -> Tensor:
    if not isinstance(target, DTensor) or target.shape != tensor.shape:
        return tensor
    moved = tensor.to(target.device)
    return distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)


def _stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    try:
        entries = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{folder}: damaged or incomplete: {error}") from error
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _grouped(flat: Mapping[str, Tensor]) -> TensorGroups:
    groups: TensorGroups = {}
    for full_name, tensor in flat.items():
        group, _, name = full_name.partition("/")
        groups.setdefault(group, {})[name] = tensor
    return groups


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise the error of the first rank that failed, in place of a table of all."""
    try:
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """torch.distributed.checkpoint calls deprecated parts of torch, which warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
