"""A resumed run equals an uninterrupted one bit for bit; damaged checkpoints, changed recipes and full disks are
named."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import CheckpointError, DiskFull, InputError
from encodery.model.checkpoint import read_tensors
from encodery.train import checkpoint
from encodery.train.display import Display
from encodery.train.launch import resume, start
from encodery.train.loop import Loop
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]

EVERYTHING: dict[str, Any] = {
    "model": {"dropout": 0.1, "attention": {"is": "full", "dropout": 0.1}},
    "objective": {"is": "mlm", "corruption": {"is": "word", "rate": "0.4 -> 0.15 linear"}, "z_loss": 1e-4},
    "hooks": [{"is": "ema", "decay": 0.9}],
    "train": {
        "budget": "40steps",
        "batch_tokens": "128 -> 512 linear",
        "seq_len_schedule": "16 -> 32 linear",
        "micro_batch_tokens": 256,
        "lr_schedule": "wsd(warmup=10%, decay=20%)",
        "checkpoint_every": "5steps",
        "evals": 4,
    },
}


class Stopped(Exception):
    """Raised by a test in the middle of a run."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    before = Loop._step

    def run(self: Loop, elapsed: float) -> None:
        if self.clock.step == step:
            raise Stopped
        before(self, elapsed)

    monkeypatch.setattr(Loop, "_step", run)


@pytest.mark.parametrize(
    ("step", "optim"),
    [(3, "adamw"), (7, "adamw"), (23, "adamw"), (38, "adamw"), (23, "muon"), (23, "lamb"), (23, "stable_adamw")],
)
def test_resumed_run_equals_uninterrupted_one(
    table: Table, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, optim: str
) -> None:
    recipe = table(**EVERYTHING, optim={"is": optim, "lr": 0.01})
    whole = start(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            start(recipe, tmp_path / "parted")
    torch.manual_seed(random.randrange(1000))  # a new process has another generator
    parted = resume(tmp_path / "parted")
    assert parted.finished
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 40
    assert whole.metrics["epoch"] > 1, "the test should cross the end of an epoch"
    ours, theirs = (read_tensors(tmp_path / name / "model/model.safetensors") for name in ("parted", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert parted.metrics["heldout_loss"] == whole.metrics["heldout_loss"]


UNEVEN = {"layers": [{"heads": 1}, {"heads": 3, "intermediate_size": 24}, {"heads": 0}]}


@pytest.mark.parametrize(
    ("layers", "optim"), [(UNEVEN, "adamw"), (UNEVEN, "muon"), ({"layer_groups": [0, 1, 1]}, "adamw")]
)
def test_layers_of_different_sizes_and_shared_ones_train_and_resume(
    table: Table, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: dict[str, Any], optim: str
) -> None:
    model = {**EVERYTHING["model"], "depth": 3, **layers}
    train = {**EVERYTHING["train"], "budget": "16steps"}
    recipe = table(**{**EVERYTHING, "model": model, "train": train}, optim={"is": optim, "lr": 0.01})
    start(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 11)
        with pytest.raises(Stopped):
            start(recipe, tmp_path / "parted")
    assert resume(tmp_path / "parted").finished
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    ours, theirs = (read_tensors(tmp_path / name / "model/model.safetensors") for name in ("parted", "whole"))
    assert ours["encoder.blocks.1.attention.qkv.weight"].shape == (72 if layers is UNEVEN else 48, 16)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


KILLED = """
import json, sys
from pathlib import Path
from encodery.train.launch import decode_recipe, resume, start
folder = Path({folder!r})
if (folder / "recipe.json").exists():
    resume(folder)
else:
    start(decode_recipe(json.loads(Path({recipe!r}).read_text())), folder)
"""


@pytest.mark.slow
def test_a_run_killed_at_random_points_can_be_resumed(
    table: Table, losses: Losses, tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    recipe = table(**{**EVERYTHING, "train": {**EVERYTHING["train"], "budget": "150steps"}})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    start(recipe, tmp_path / "whole")
    folder, log = tmp_path / "killed", tmp_path / "killed/log.jsonl"
    code = KILLED.format(folder=str(folder), recipe=str(tmp_path / "recipe.json"))
    rng, kills = random.Random(5), 0
    for target in (20, 70, 120):
        process = spawn(code)
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"loss") < target):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    process = spawn(code)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert losses(folder) == losses(tmp_path / "whole")


def finish_early(table: Table, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int = 11) -> Path:
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            start(table(), folder)
    return folder


class RecordedWarnings(Display):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def show(self, line: dict[str, Any]) -> None:
        pass

    def info(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    table: Table, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    start(table(), tmp_path / "whole")
    run = finish_early(table, tmp_path / "run", monkeypatch)
    first, last = checkpoint.list_checkpoints(run)
    assert [checkpoint.step_of(first), checkpoint.step_of(last)] == [4, 8]
    file = last / "weights.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(data[:-7])
    elif damage == "flip":
        data[-5] ^= 1
        file.write_bytes(data)
    elif damage == "remove":
        file.unlink()
    else:
        (last / "manifest.json").write_text("{", encoding="utf-8")
    display = RecordedWarnings()
    monkeypatch.setattr("encodery.train.launch._display", lambda console, distributed: display)
    resume(run)
    assert len(display.warnings) == 1
    assert "step-00000008" in display.warnings[0]
    assert losses(run) == losses(tmp_path / "whole")


def test_only_damaged_checkpoints_are_an_error(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finish_early(table, tmp_path / "run", monkeypatch)
    for folder in checkpoint.list_checkpoints(run):
        (folder / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        resume(run)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    table: Table, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(table(), tmp_path / "whole")
    run = finish_early(table, tmp_path / "run", monkeypatch, step=2)
    assert not checkpoint.list_checkpoints(run)
    resume(run)
    assert losses(run) == losses(tmp_path / "whole")


def test_a_changed_recipe_or_other_data_is_refused_by_name(
    table: Table, other_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finish_early(table, tmp_path / "run", monkeypatch)
    good = json.loads((run / "recipe.json").read_text())
    for path, change in (("optim.lr", 0.02), ("train.batch_tokens", "300"), ("model.dropout", 0.1)):
        table_name, key = path.split(".")
        bad = json.loads(json.dumps(good))
        bad["settings"][table_name][key] = change
        (run / "recipe.json").write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(CheckpointError, match=path):
            resume(run)
    compatible = json.loads(json.dumps(good))
    compatible["settings"]["train"]["keep"] = 5
    (run / "recipe.json").write_text(json.dumps(compatible), encoding="utf-8")
    compatible["inputs"]["tokens"] = str(other_store)
    (run / "recipe.json").write_text(json.dumps(compatible), encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokens"):
        resume(run)
    compatible["inputs"]["tokens"] = good["inputs"]["tokens"]
    (run / "recipe.json").write_text(json.dumps(compatible), encoding="utf-8")
    assert resume(run).finished


def test_a_full_disk_leaves_earlier_checkpoints_and_the_run_can_be_resumed(
    table: Table, losses: Losses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(table(), tmp_path / "whole")
    run = tmp_path / "run"
    before = checkpoint.write_tensors

    def full(path: Path, tensors: Any) -> None:
        if "step-00000008" in str(path) and path.name.startswith("optimizer"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        before(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        with pytest.raises(DiskFull, match="no space left"):
            start(table(), run)
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(run)] == [4]
    checkpoint.verify_checkpoint(checkpoint.list_checkpoints(run)[0])
    resume(run)
    assert losses(run) == losses(tmp_path / "whole")


def test_old_checkpoints_are_removed_and_pinned_ones_kept(table: Table, tmp_path: Path) -> None:
    recipe = table(
        train={"budget": "30steps", "checkpoint_every": "4steps", "lr_schedule": "wsd(warmup=10%, decay=20%)"}
    )
    start(recipe, tmp_path / "run")
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(tmp_path / "run")] == [24, 28, 30]


def test_a_finished_run_and_a_folder_in_use_are_refused(table: Table, tmp_path: Path) -> None:
    start(table(), tmp_path / "run")
    with pytest.raises(InputError, match="finished"):
        resume(tmp_path / "run")
    with pytest.raises(InputError, match="encodery resume"):
        start(table(), tmp_path / "run")
    with pytest.raises(InputError, match=r"recipe\.json"):
        resume(tmp_path)


def test_a_crash_in_the_last_score_loses_no_training(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Loop, tokens: int) -> dict[str, float]:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_score", crash)
        with pytest.raises(Stopped):
            start(table(train={"evals": 0}), tmp_path / "run")
    assert checkpoint.step_of(checkpoint.list_checkpoints(tmp_path / "run")[-1]) == 12
    shutil.rmtree(tmp_path / "run/model")
    assert resume(tmp_path / "run").finished
    assert (tmp_path / "run/metrics.json").is_file()
