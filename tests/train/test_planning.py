"""All ranks plan the same step, and each reads its own part only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from encodery.tokens import loader
from encodery.train.distributed import DistributedContext
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
TRAIN = {"batch_tokens": 1024, "micro_batch_tokens": 128}


@pytest.mark.parametrize("world", [2, 8])
def test_each_rank_reads_its_own_sequences_only(table: Table, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = PretrainJob.from_recipe(table(train=TRAIN), DistributedContext(), torch.device("cpu"))
    ranks = [
        PretrainJob.from_recipe(table(train=TRAIN), DistributedContext(rank, world), torch.device("cpu"))
        for rank in range(world)
    ]
    read = list[int]()
    pack = loader._pack

    def counted(chunks: Any, starts: Any, lengths: Any) -> loader.PackedBatch:
        packed = pack(chunks, starts, lengths)
        read.append(packed.tokens)
        return packed

    for step in range(3):
        whole = alone.batches(step, 0.5, 1024, None)
        with monkeypatch.context() as patch:
            patch.setattr(loader, "_pack", counted)
            shares = [rank.batches(step, 0.5, 1024, None) for rank in ranks]
        assert sum(read) == whole.tokens
        assert max(read) < 1.5 * whole.tokens / world
        assert {share.tokens for share in shares} == {whole.tokens}
        result = {micro.index: micro.batch for share in shares for micro in share.micro_batches}
        assert sorted(result) == [micro.index for micro in whole.micro_batches]
        for micro in whole.micro_batches:
            assert torch.equal(result[micro.index].ids, micro.batch.ids)
            assert torch.equal(result[micro.index].cu_seqlens, micro.batch.cu_seqlens)
        read.clear()
    assert all(rank.state() == alone.state() for rank in ranks)


def test_micro_batch_ids_belong_to_the_sequences(table: Table) -> None:
    job = PretrainJob.from_recipe(table(train=TRAIN), DistributedContext(), torch.device("cpu"))
    packed = job.loader.next(1024, 32)
    assert packed.global_tokens == packed.tokens
    assert len(packed.micro_batch_ids) == len(packed.lengths)
    loads = np.bincount(packed.micro_batch_ids, packed.lengths)
    assert len(loads) == 8
    assert loads.max() - loads.min() <= 32
