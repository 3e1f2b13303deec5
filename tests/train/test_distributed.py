"""Two gloo processes train as one process does, write files once, and stop together."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.run_log import read_log
from encodery.model.checkpoint import read_tensors
from encodery.train.distributed import DistributedContext, _buckets
from encodery.train.launch import start
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]

SCRIPT = """
import json, sys
from pathlib import Path
from encodery.train.launch import decode_recipe, resume, start
folder = Path({folder!r})
recipe = decode_recipe(json.loads(Path({recipe!r}).read_text()))
result = resume(folder) if (folder / "recipe.json").exists() else start(recipe, folder)
print("finished" if result.finished else "stopped", flush=True)
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TRAIN = {"budget": "30steps", "batch_tokens": 512, "micro_batch_tokens": 256, "evals": 2}
MODEL = {"dropout": 0.1}


@pytest.mark.slow
def test_two_processes_train_as_one(table: Table, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    recipe = table(train=TRAIN, model=MODEL, hooks=[{"is": "ema", "decay": 0.9}])
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "two"
    process = spawn(SCRIPT.format(recipe=str(tmp_path / "recipe.json"), folder=str(folder)), *TORCHRUN)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    one = start(recipe, tmp_path / "one")  # in two micro-batches
    two = json.loads((folder / "metrics.json").read_text())
    lines = [[line for line in read_log(run / "log.jsonl") if "loss" in line] for run in (tmp_path / "one", folder)]
    for a, b in zip(*lines, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4), a["step"]
    assert two["processes"] == 2
    assert two["heldout_loss"] == pytest.approx(one.metrics["heldout_loss"], rel=1e-5)
    assert set(read_tensors(folder / "model/model.safetensors")) == set(
        read_tensors(tmp_path / "one/model/model.safetensors")
    )


@pytest.mark.slow
def test_a_signal_stops_all_processes_and_the_run_can_be_resumed(
    table: Table, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    recipe = table(train={**TRAIN, "budget": "300steps", "checkpoint_every": "1h"})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "two"
    code = SCRIPT.format(recipe=str(tmp_path / "recipe.json"), folder=str(folder))
    process = spawn(code, *TORCHRUN)
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert out.count("stopped") == 2, out
    assert 0 < len([line for line in read_log(log) if "loss" in line]) < 300
    process = spawn(code, *TORCHRUN)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    assert [line["step"] for line in read_log(log) if "loss" in line] == list(range(1, 301))


def test_micro_batches_do_not_depend_on_the_number_of_ranks(table: Table) -> None:
    recipe = table(train={"batch_tokens": 512, "micro_batch_tokens": 256})
    alone = PretrainJob.from_recipe(recipe, DistributedContext(), torch.device("cpu")).batches(0, 0.5, 512, None)
    ranks = [
        PretrainJob.from_recipe(recipe, DistributedContext(r, 2), torch.device("cpu")).batches(0, 0.5, 512, None)
        for r in range(2)
    ]
    assert [micro.index for work in ranks for micro in work.micro_batches] == [0, 1]
    for work in ranks:
        for micro in work.micro_batches:
            twin = alone.micro_batches[micro.index].batch
            assert torch.equal(twin.ids, micro.batch.ids)
            assert torch.equal(twin.extra["masked_positions"], micro.batch.extra["masked_positions"])
            assert torch.equal(twin.cu_seqlens, micro.batch.cu_seqlens)
    sizes = [work.micro_batches[0].batch.tokens for work in ranks]
    assert sum(sizes) == alone.tokens
    assert abs(sizes[0] - sizes[1]) < 32, "balanced to less than a sequence"


def test_buckets_hold_consecutive_gradients_of_one_dtype() -> None:
    grads = [torch.zeros(3), torch.zeros(4), torch.zeros(2, dtype=torch.float64), torch.zeros(10_000_000)]
    assert [len(bucket) for bucket in _buckets(grads)] == [2, 1, 1]
