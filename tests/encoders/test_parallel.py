"""Batches in parallel: equal vectors, the number of threads restored, errors raised."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from encodery.encoders import parallel
from encodery.encoders.dense import DenseEncoder

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield int(request.param)
    torch.set_num_threads(before)


def test_vectors_do_not_depend_on_the_cores(
    encoder: DenseEncoder, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), rng.integers(0, 10))) for _ in range(200)]
    alone = np.stack([encoder.encode([text]).vectors[0] for text in texts])
    monkeypatch.setattr(parallel, "MIN_BATCH_TOKENS", 16)
    done: list[int] = []
    result = encoder.encode(texts, batch_tokens=64, progress=done.append)
    assert np.abs(result.vectors - alone).max() < 1e-5
    assert sum(done) == 200
    assert len(done) > 10
    assert torch.get_num_threads() == threads


def test_errors_are_raised_and_threads_restored(threads: int) -> None:
    def compute(piece: int) -> int:
        assert torch.is_inference_mode_enabled()
        if piece == 5:
            raise ValueError("five")
        return piece * 2

    assert list(parallel.map_batches(compute, [1, 2, 3, 4], CPU)) == [2, 4, 6, 8]
    with pytest.raises(ValueError, match="five"):
        list(parallel.map_batches(compute, list(range(9)), CPU))
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_the_budget_is_divided_among_threads(threads: int) -> None:
    assert parallel.batch_budget(6000, CPU) == 6000 // threads
    assert parallel.batch_budget(600, CPU) == (600 if threads == 1 else 512)
    assert parallel.batch_budget(64, CPU) == 64
    assert parallel.batch_budget(6000, torch.device("cuda")) == 6000
