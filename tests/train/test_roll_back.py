"""A diverged run goes back to its last checkpoint and continues with the data that follow, a limited number of
times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import UserError
from encodery.base.run_log import read_log
from encodery.train.launch import resume, start
from encodery.train.loop import MAX_ROLLBACKS, Loop
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]


def spoil(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Set a weight to NaN before each of `steps`."""
    step = Loop._step

    def torn(loop: Loop, elapsed: float) -> None:
        loop.guard.max_consecutive_skips = 2
        if loop.clock.step in steps:
            with torch.no_grad():
                next(loop.job.module.parameters()).fill_(math.nan)
        step(loop, elapsed)

    monkeypatch.setattr(Loop, "_step", torn)


def test_weights_go_back_and_training_continues(
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    spoil(monkeypatch, range(7, 8))
    result = start(table(train={"budget": "14steps", "evals": 0, "keep": 9}), tmp_path / "whole")
    assert (result.step, result.metrics["skipped"], result.metrics["rollbacks"]) == (14, 2, 1)
    assert math.isfinite(result.metrics["heldout_loss"])
    results = losses(tmp_path / "whole")
    assert [step for step, loss in results.items() if not math.isfinite(loss)] == [8, 9]
    kept = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert kept[0].endswith("04")
    assert kept[1].endswith("09"), "a checkpoint with faulty weights was kept"
    with power_cut(11):
        start(table(train={"budget": "14steps", "evals": 0, "keep": 9}), tmp_path / "torn")
    assert resume(tmp_path / "torn").metrics["rollbacks"] == 1
    assert json.dumps(losses(tmp_path / "torn")) == json.dumps(results)


def test_a_run_that_always_diverges_ends(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(5, 100))
    with pytest.raises(UserError, match=r"diverged.*earlier checkpoint"):
        start(table(train={"budget": "60steps", "evals": 0}), tmp_path / "run")
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "rollbacks" in line]
    assert lines[-1]["rollbacks"] == MAX_ROLLBACKS
