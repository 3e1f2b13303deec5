"""A killed process: torchrun restarts all processes, and the run continues from its last checkpoint."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encodery.train.launch import start
from encodery.train.recipe import Recipe

SCRIPT = """
import json, os, signal
from pathlib import Path
from encodery.base import machine
from encodery.train.launch import decode_recipe, start
from encodery.train.loop import Loop
before = Loop._step
def step(self, elapsed):
    if self.clock.step == 6 and machine.rank() == 1 and not machine.restart_count():
        os.kill(os.getpid(), signal.SIGKILL)
    before(self, elapsed)
Loop._step = step
start(decode_recipe(json.loads(Path({recipe!r}).read_text())), Path({folder!r}))
print("restarted", machine.restart_count(), flush=True)
"""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")


@pytest.mark.slow
def test_a_killed_rank_continues_from_the_last_checkpoint(
    table: Callable[..., Recipe[Any]],
    losses: Callable[[Path], dict[int, float]],
    tmp_path: Path,
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    recipe = table(train={"batch_tokens": 512, "micro_batch_tokens": 256, "evals": 0}, model={"dropout": 0.1})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "two"
    process = spawn(SCRIPT.format(recipe=str(tmp_path / "recipe.json"), folder=str(folder)), *TORCHRUN)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert out.count("restarted 1") == 2, out
    start(recipe, tmp_path / "one")
    killed, whole = losses(folder), losses(tmp_path / "one")
    assert list(killed) == list(range(1, 13))
    for step, loss in whole.items():
        assert killed[step] == pytest.approx(loss, rel=1e-5), step
