"""Branching: a decay that starts at a checkpoint of a run with a constant learning rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encodery.base.errors import CheckpointError, SettingsError
from encodery.base.run_log import read_log
from encodery.train import checkpoint
from encodery.train.branch import branch
from encodery.train.launch import start
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]


def rates(run: Path) -> dict[int, float]:
    return {line["step"]: line["lr"] for line in read_log(run / "log.jsonl") if "lr" in line}


@pytest.fixture
def run(table: Table, tmp_path: Path) -> Path:
    train = {"budget": "40steps", "checkpoint_every": "10steps", "keep": 9, "lr_schedule": "wsd(warmup=10%, decay=20%)"}
    start(table(train=train), tmp_path / "run")
    return tmp_path / "run"


def test_a_branch_from_the_start_of_the_decay_repeats_the_run(run: Path, losses: Losses, tmp_path: Path) -> None:
    assert [checkpoint.step_of(folder) for folder in checkpoint.list_checkpoints(run)] == [10, 20, 30, 32, 40]
    result = branch(run, tmp_path / "new", decay="20%")
    assert result.finished
    assert result.step == 40
    assert rates(tmp_path / "new") == pytest.approx(rates(run))
    assert losses(tmp_path / "new") == pytest.approx(losses(run), rel=1e-4)


def test_a_branch_from_an_earlier_checkpoint_is_a_shorter_run(run: Path, losses: Losses, tmp_path: Path) -> None:
    result = branch(run, tmp_path / "new", decay="5steps", checkpoint_name="step-00000020")
    assert result.step == 25
    results = losses(tmp_path / "new")
    assert {step: results[step] for step in range(1, 21)} == {step: losses(run)[step] for step in range(1, 21)}
    falling = [rates(tmp_path / "new")[step] for step in range(20, 26)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(0.01)
    assert falling[-1] < 0.002


def test_a_longer_budget_continues_the_run(run: Path, tmp_path: Path) -> None:
    result = branch(run, tmp_path / "new", budget="50steps", checkpoint_name="step-00000030")
    assert result.step == 50
    assert rates(tmp_path / "new")[39] == pytest.approx(0.01)


def test_impossible_branches_are_refused_by_name(run: Path, table: Table, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not at its peak"):
        branch(run, tmp_path / "new", decay="20%", checkpoint_name="step-00000040")
    with pytest.raises(CheckpointError, match="step-00000032"):
        branch(run, tmp_path / "new", decay="20%", checkpoint_name="step-7")
    with pytest.raises(SettingsError, match="steps"):
        branch(run, tmp_path / "new", decay="5m")
    with pytest.raises(SettingsError, match="percentage"):
        branch(run, tmp_path / "new", decay="120%")
    with pytest.raises(SettingsError, match="already used"):
        branch(run, tmp_path / "new", budget="20steps")
    with pytest.raises(SettingsError, match="either"):
        branch(run, tmp_path / "new")
    assert not (tmp_path / "new").exists()
