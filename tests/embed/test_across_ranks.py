"""Examples compared with those of all processes: two processes have the loss and the gradients of one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encodery.base.settings import decode
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.embed.training import EmbedTraining
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import LoadedModel, load_model
from encodery.objectives import step_metrics
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.step import forward_backward

CASES: dict[str, dict[str, Any]] = {
    "pairs": {"loss": {"is": "infonce", "symmetric": True, "same_role": True}},
    "windows": {"loss": {"is": "infonce"}, "truncate": "chunk", "encoder": {"max_length": 4}},
    "layers": {"loss": {"is": "matryoshka_layers", "loss": {"is": "infonce"}}},
    "classes": {"loss": {"is": "supcon"}},
    "guided": {"loss": {"is": "gist"}},
    "multi_vector": {
        "objective": {"is": "multi_vector", "token_dim": 8, "query_length": 9},
        "loss": {"is": "infonce"},
    },
}
BATCH = 11  # not divisible by two processes


def data(case: str) -> EmbeddingExamples:
    rng = np.random.default_rng(0)
    left = [" ".join(f"a{i}" for i in rng.integers(0, 40, rng.integers(1, 6))) for _ in range(BATCH)]
    if case == "classes":  # Both texts of a class attract each other even if they are on different processes.
        return EmbeddingExamples((left,), "label", np.array([0, 1, 0, 2, 3, 4, 5, 6, 1, 7, 2]))
    right = [" ".join(f"b{i}" for i in rng.integers(0, 40, 3)) for _ in range(BATCH)]
    return EmbeddingExamples((left, [*right[:-1], right[0]]))


def step(
    case: str, loaded: LoadedModel, distributed: DistributedContext
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Gradients by name, and metrics, of one step of a case."""
    table = {**CASES[case], "batch": BATCH, "train": {"precision": "fp32", "micro_batch_tokens": 24}}
    table |= {"guide": str(loaded.path)} if case == "guided" else {}
    settings = decode(EmbedTraining, table)
    prepared = prepare_texts(settings, loaded, EmbedData(data(case)))
    job = EmbedJob(settings, prepared, distributed, torch.device("cpu"))
    running = Plain().build(job, distributed, torch.device("cpu"))
    terms = forward_backward(running, job.batches(3, 0.5, 0, None), distributed, "fp32", 0, 3)
    grads = {name: p.grad for name, p in job.module.named_parameters() if p.grad is not None}
    return grads, step_metrics(terms, distributed.all_reduce if distributed.world > 1 else None)


def test_two_processes_have_the_gradients_of_one(loaded: LoadedModel, tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(loaded.path), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    for case in CASES:
        expected, one = step(case, loaded, DistributedContext())
        two = json.loads((tmp_path / f"{case}.json").read_text())
        assert two == pytest.approx(dict(one), rel=1e-4), case
        gradients = read_tensors(tmp_path / f"{case}.safetensors")
        assert set(gradients) == set(expected)
        for name, grad in expected.items():
            torch.testing.assert_close(gradients[name], grad, rtol=1e-3, atol=2e-6, msg=f"{case}: {name}")


def test_a_process_alone_keeps_what_it_has() -> None:
    rows = torch.randn(3, 2)
    assert DistributedContext().all_gather(rows) is rows


def _rank(path: str, folder: str, rank: int) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for case in CASES:
        grads, reported = step(case, load_model(path), DistributedContext(rank, 2))
        if rank == 0:
            write_tensors(Path(folder) / f"{case}.safetensors", grads)
            (Path(folder) / f"{case}.json").write_text(json.dumps(reported))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(sys.argv[1], sys.argv[2], int(sys.argv[3]))
