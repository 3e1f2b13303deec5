"""Weights sharded over gloo processes: the losses of one process; checkpoints for any number of processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.base.run_log import read_log
from encodery.model.checkpoint import read_tensors
from encodery.train import checkpoint
from encodery.train.execution.fsdp import Fsdp
from encodery.train.job import Job
from encodery.train.launch import choose_execution, resume, start
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
CPU = torch.device("cpu")
Spawn = Callable[..., subprocess.Popen[str]]

SCRIPT = """
import json, sys
from pathlib import Path
from encodery.train.launch import decode_recipe, resume, start
from encodery.train.loop import Loop
folder, recipe, until = Path({folder!r}), decode_recipe(json.loads(Path({recipe!r}).read_text())), {until}
before = Loop._synchronise
Loop._synchronise = lambda self, stop: before(self, stop or self.clock.step >= until)
result = resume(folder) if (folder / "recipe.json").exists() else start(recipe, folder)
print("finished" if result.finished else "stopped", flush=True)
"""
TRAIN: dict[str, Any] = {"budget": "12steps", "batch_tokens": 512, "micro_batch_tokens": 64, "evals": 2, "fsdp": True}
EVERYTHING: dict[str, Any] = {"model": {"dropout": 0.1}, "hooks": [{"is": "ema", "decay": 0.9}]}


def run(spawn: Spawn, ranks: int, folder: Path, recipe: Path, until: int = 1000) -> None:
    code = SCRIPT.format(folder=str(folder), recipe=str(recipe), until=until)
    process = spawn(code, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out


def lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(folder / "log.jsonl") if "loss" in line]


def check_alike(one: Path, other: Path) -> None:
    """Compare losses, norms, held-out metrics and the model, up to the order of additions."""
    for a, b in zip(lines(one), lines(other), strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4), a["step"]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    assert metrics[0]["heldout_loss"] == pytest.approx(metrics[1]["heldout_loss"], rel=1e-5)
    assert metrics[0]["parameters"] == metrics[1]["parameters"]
    models = [read_tensors(folder / "model/model.safetensors") for folder in (one, other)]
    assert set(models[0]) == set(models[1])
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw", "stable_adamw", "lamb"])
def test_two_ranks_with_sharded_weights_train_as_one(table: Table, tmp_path: Path, spawn: Spawn, optim: str) -> None:
    recipe = table(train=TRAIN, optim={"is": optim, "lr": 0.01}, **EVERYTHING)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    run(spawn, 2, tmp_path / "two", tmp_path / "recipe.json")
    start(recipe, tmp_path / "one")
    check_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_replaced_token_detection_with_sharded_weights(table: Table, tmp_path: Path, spawn: Spawn) -> None:
    """The generator reads the model's embedding tables, which are sharded apart from its own layers."""
    model = {"width": 32, "heads": 4, "depth": 2, "head": None, "extra_heads": ["replaced_tokens"]}
    recipe = table(train=TRAIN, model=model, objective={"is": "replaced_tokens"})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "two"
    run(spawn, 2, folder, tmp_path / "recipe.json", until=5)
    run(spawn, 2, folder, tmp_path / "recipe.json")
    start(recipe, tmp_path / "one")
    check_alike(tmp_path / "one", folder)


@pytest.mark.slow
def test_sharded_checkpoints_are_resumed_by_other_numbers_of_ranks(table: Table, tmp_path: Path, spawn: Spawn) -> None:
    recipe = table(train=TRAIN, **EVERYTHING)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "moving"
    run(spawn, 2, folder, tmp_path / "recipe.json", until=3)
    two = checkpoint.verify_checkpoint(checkpoint.list_checkpoints(folder)[-1])
    assert sorted(path.suffix for path in (two / "shards").iterdir()) == [".safetensors"] * 2
    run(spawn, 4, folder, tmp_path / "recipe.json", until=7)
    four = checkpoint.verify_checkpoint(checkpoint.list_checkpoints(folder)[-1])
    assert sorted(path.suffix for path in (four / "shards").iterdir()) == [".safetensors"] * 4
    kinds = {path.suffix for path in four.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json"}, "a pickle was written"
    resume(folder)
    start(recipe, tmp_path / "one")
    assert len(lines(folder)) == 12
    check_alike(tmp_path / "one", folder)


@pytest.mark.slow
def test_a_whole_checkpoint_is_resumed_with_sharded_weights(table: Table, tmp_path: Path, spawn: Spawn) -> None:
    recipe = table(train={**TRAIN, "budget": "8steps"}, **EVERYTHING)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "moving"
    run(spawn, 1, folder, tmp_path / "recipe.json", until=3)
    assert not (checkpoint.list_checkpoints(folder)[-1] / "shards").exists()
    run(spawn, 2, folder, tmp_path / "recipe.json")
    start(recipe, tmp_path / "one")
    check_alike(tmp_path / "one", folder)


def test_one_process_shards_nothing(table: Table, tmp_path: Path) -> None:
    recipe = table(train={"fsdp": True})
    start(recipe, tmp_path / "sharded")
    start(table(), tmp_path / "whole")
    assert [line["loss"] for line in lines(tmp_path / "sharded")] == [
        line["loss"] for line in lines(tmp_path / "whole")
    ]


@pytest.mark.parametrize(
    ("job", "settings", "message"),
    [
        (Job, {}, "needs whole weights on every process"),
        (PretrainJob, {"optim": {"is": "muon"}}, "optim.is = 'muon' needs whole matrices"),
    ],
)
def test_what_needs_whole_weights_is_refused_in_several_processes(
    job: type[Job], settings: dict[str, Any], message: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = table(train={"fsdp": True}, **settings)
    assert not Fsdp().incompatibilities(job, recipe.settings, CPU)
    monkeypatch.setattr(machine, "world_size", lambda: 2)
    with pytest.raises(SettingsError, match=message):
        choose_execution(job, recipe.settings, CPU)


def test_offloaded_optimiser_state_is_refused(table: Table) -> None:
    with pytest.raises(SettingsError, match=r"train\.optimizer_offload needs whole weights"):
        choose_execution(PretrainJob, table(train={"fsdp": True, "optimizer_offload": True}).settings, CPU)
