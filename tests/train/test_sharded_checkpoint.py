"""The sharded files of a checkpoint: what one process writes it reads back, whole or as shards of a mesh of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from encodery.base.errors import ArtifactError
from encodery.train.sharded_checkpoint import distribute, read_own_shards, read_shards, write_shards

GROUPS = {
    "weights": {"layer.weight": torch.arange(24.0).view(6, 4), "layer.bias": torch.arange(6, dtype=torch.float64)},
    "optimizer": {"layer.weight:step": torch.tensor(3.0), "layer.weight:exp_avg": torch.ones(6, 4)},
}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def sharded(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    return distribute_tensor(tensor, mesh, [Shard(0)])


def check_equal(groups: dict[str, dict[str, Tensor]]) -> None:
    assert groups.keys() == GROUPS.keys()
    for group, tensors in GROUPS.items():
        assert groups[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = groups[group][name]
            whole = read.full_tensor() if isinstance(read, DTensor) else read
            assert whole.dtype == tensor.dtype
            assert torch.equal(whole, tensor), f"{group}/{name}"


def test_sharded_and_whole_tensors_are_read_back_whole(tmp_path: Path, mesh: DeviceMesh) -> None:
    weights = {**GROUPS["weights"], "layer.weight": sharded(GROUPS["weights"]["layer.weight"], mesh)}
    write_shards(tmp_path / "shards", {**GROUPS, "weights": weights})
    assert {path.suffix for path in (tmp_path / "shards").iterdir()} == {".safetensors"}, "a pickle was written"
    groups = read_shards(tmp_path / "shards")
    assert not any(isinstance(t, DTensor) for tensors in groups.values() for t in tensors.values())
    check_equal(groups)


def test_each_rank_reads_the_shards_that_its_own_tensors_have(tmp_path: Path, mesh: DeviceMesh) -> None:
    write_shards(tmp_path / "shards", GROUPS)
    own = {"layer.weight": sharded(torch.zeros(6, 4), mesh)}

    def like(group: str, name: str) -> Tensor | None:
        return own.get(name.split(":")[0]) if name.endswith(("weight", "exp_avg")) else None

    groups = read_own_shards(tmp_path / "shards", like)
    check_equal(groups)
    assert isinstance(groups["weights"]["layer.weight"], DTensor)
    assert isinstance(groups["optimizer"]["layer.weight:exp_avg"], DTensor)
    assert not isinstance(groups["optimizer"]["layer.weight:step"], DTensor), "a step count has no shape to shard"
    distributed = distribute(GROUPS, like)
    check_equal(distributed)
    assert isinstance(distributed["weights"]["layer.weight"], DTensor)


def test_a_damaged_file_is_named(tmp_path: Path, mesh: DeviceMesh) -> None:
    write_shards(tmp_path / "shards", GROUPS)
    for file in (tmp_path / "shards").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="shards: damaged or incomplete"):
        read_shards(tmp_path / "shards")
