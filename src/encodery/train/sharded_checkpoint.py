"""The tensors of a checkpoint whose weights are dealt over the ranks: each rank writes its rows, another number of
ranks reads its own.

By `torch.distributed.checkpoint`, but never in its usual files, whose metadata is a pickle: its safetensors writer
leaves one file a rank, with the place of every piece in the file's header. Names are `group/name`.
"""

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
"""Group and name -> the tensor of this run that is laid out as the named one shall be."""
TensorGroups = dict[str, dict[str, Tensor]]


def write_shards(folder: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write this rank's rows of every tensor; all ranks call it. A tensor that is not dealt is written once."""
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    with _first_failure(), _quiet():
        save(flat, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shards(folder: Path) -> TensorGroups:
    """Every tensor whole, in this process alone. Raises `ArtifactError` naming the folder when it is damaged."""
    found = {name: torch.empty(size, dtype=kind) for name, (size, kind) in _listed(folder).items()}
    with _first_failure(), _quiet():
        load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return _grouped(found)


def read_own_shards(folder: Path, like: LayoutLike) -> TensorGroups:
    """This rank's rows of every tensor that is dealt in `like`, the others whole; all ranks call it."""
    found: dict[str, Tensor] = {}
    for name, (size, kind) in _listed(folder).items():
        group, _, rest = name.partition("/")
        twin = like(group, rest)
        dealt = isinstance(twin, DTensor) and twin.shape == size
        found[name] = (
            torch.empty_like(twin, dtype=kind) if dealt and twin is not None else torch.empty(size, dtype=kind)
        )
    with _first_failure(), _quiet():
        load(found, storage_reader=HuggingFaceStorageReader(str(folder)))
    return _grouped(found)


def distribute(groups: Mapping[str, Mapping[str, Tensor]], like: LayoutLike) -> TensorGroups:
    """`deal_shards` of tensors that every rank holds whole."""
    return {
        group: {name: _cut(tensor, like(group, name)) for name, tensor in tensors.items()}
        for group, tensors in groups.items()
    }


def _cut(tensor: Tensor, twin: Tensor | None) -> Tensor:
    if not isinstance(twin, DTensor) or twin.shape != tensor.shape:
        return tensor
    there = tensor.to(twin.device)
    return distribute_tensor(there, twin.device_mesh, twin.placements, src_data_rank=None)


def _listed(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
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
    found: TensorGroups = {}
    for full, tensor in flat.items():
        group, _, name = full.partition("/")
        found.setdefault(group, {})[name] = tensor
    return found


@contextmanager
def _first_failure() -> Iterator[None]:
    """The error of the first rank that failed, in place of a table of all."""
    try:
        yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from error


@contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns of its own calls into the deprecated parts of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
