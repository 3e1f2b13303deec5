"""The loop: the loss over micro-batches, skipped steps, signals, schedules, the time spent on scores."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encodery.base.artifact import Artifact
from encodery.base.errors import ContractError, SettingsError, UserError
from encodery.base.run_log import read_log
from encodery.base.schedule import Schedule
from encodery.model.load import load_model
from encodery.objectives import Count, LossTerm
from encodery.train.budget import Budget
from encodery.train.clock import Clock
from encodery.train.display import ConsoleDisplay, SilentDisplay, format_duration
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.hooks import Hook
from encodery.train.interrupts import catch_signals
from encodery.train.job import Job, MicroBatch, StepBatches
from encodery.train.launch import resume, start
from encodery.train.loop import Loop, decay_start
from encodery.train.optim.adamw import AdamW
from encodery.train.recipe import RECIPE, Recipe
from encodery.train.settings import TrainSettings

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]


@dataclass(frozen=True)
class Settings:
    """The settings of a toy job."""

    train: TrainSettings
    optim: AdamW = field(default_factory=lambda: AdamW(lr=0.1))
    hooks: tuple[Hook, ...] = ()


class Regression(Job):
    """A toy job: fits a line to the points 0..7, in micro-batches of uneven size. `poison`: steps whose label is
    NaN."""

    def __init__(self, cuts: tuple[int, ...] = (8,), poison: tuple[int, ...] = ()) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(1, 1)
        self.cuts, self.poison, self.requested = cuts, poison, list[tuple[int, float, int, int | None]]()

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        self.requested.append((step, progress, batch_tokens, max_length))
        x = torch.arange(8.0)[:, None] / 8
        y = 3 * x + 1 + (math.nan if step in self.poison else 0.0)
        starts = (0, *self.cuts[:-1])
        parts = [(x[a:b], y[a:b]) for a, b in zip(starts, self.cuts, strict=True)]
        return StepBatches([MicroBatch(i, part) for i, part in enumerate(parts)], batch_tokens)

    def counts(self, batch: Any) -> Mapping[str, Count]:
        return {"square": len(batch[0])}

    def terms(self, batch: Any) -> Mapping[str, LossTerm]:
        x, y = batch
        return {"square": LossTerm(((self.module(x) - y) ** 2).sum(), len(x))}

    def score(self, tokens: int) -> dict[str, float]:
        return {}

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        raise ContractError("must not be called here")

    def identity(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...

    @classmethod
    def from_recipe(cls, recipe: Recipe[Any], distributed: DistributedContext, device: torch.device) -> Job:
        return cls()


def steps(job: Job, folder: Path, count: int, **train: Any) -> Loop:
    """Make `count` steps of a toy job, without the end of a run."""
    settings = TrainSettings(budget=f"{count}steps", evals=0, **train)
    execution = Plain().build(job, DistributedContext(), torch.device("cpu"))
    loop = Loop(execution, folder, Settings(settings), DistributedContext(), SilentDisplay(), "fp32", {})
    with contextlib.closing(loop.log):
        for _ in range(count):
            loop._between_steps(0.0)
            loop._step(0.0)
    return loop


def test_uneven_micro_batches_give_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    weights = []
    for name, cuts in (("whole", (8,)), ("parts", (1, 3, 8))):
        (tmp_path / name).mkdir()
        job = Regression(cuts)
        steps(job, tmp_path / name, 20, clip=0.0)
        weights.append(torch.cat([p.detach().flatten() for p in job.module.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)
    whole, parts = (read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    assert [line["loss"] for line in whole] == pytest.approx([line["loss"] for line in parts], rel=1e-5)
    assert whole[-1]["loss"] < whole[0]["loss"] / 2


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    job = Regression(poison=(3, 4))
    loop = steps(job, tmp_path, 8)
    lines = read_log(tmp_path / "log.jsonl")
    assert [line.get("skipped", 0) for line in lines] == [0, 0, 0, 1, 2, 2, 2, 2]
    assert math.isnan(lines[3]["loss"])
    assert lines[5]["loss"] == pytest.approx(lines[5]["square"])
    assert all(p.isfinite().all() for p in job.module.parameters())
    assert loop.clock.step == 8
    with pytest.raises(UserError, match="diverged"):
        steps(Regression(poison=tuple(range(40))), tmp_path, 40)


def test_schedules_are_evaluated_in_the_middle_of_each_step(tmp_path: Path) -> None:
    job = Regression()
    settings = {
        "batch_tokens": Schedule.parse("100 -> 200 linear"),
        "seq_len_schedule": Schedule.parse("8 -> 16 linear"),
    }
    steps(job, tmp_path, 10, lr_schedule=Schedule.parse("linear(warmup=20%)"), **settings)
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["lr"] for line in lines[:3]] == pytest.approx([0.1 * 0.25, 0.1 * 0.75, 0.1 * 0.9375])
    assert lines[-1]["lr"] == pytest.approx(0.1 * 0.0625)
    assert [requests[1] for requests in job.requested] == pytest.approx([(i + 0.5) / 10 for i in range(10)])
    assert [requests[2] for requests in job.requested] == [100 + 10 * i for i in range(10)]
    assert [requests[3] for requests in job.requested] == [round(8 + 8 * (i + 0.5) / 10) for i in range(10)]


def test_a_time_budget_ends_within_half_a_step() -> None:
    clock = Clock(Budget.parse("100s"))
    for _ in range(5):
        clock.record_step(10.0, 50)
    assert not clock.done(94.0)
    assert clock.done(95.0)
    assert clock.next_step_progress(50.0, 0) == pytest.approx(0.55)
    tokens = Clock(Budget.parse("1000tok"), tokens=500)
    assert tokens.next_step_progress(0.0, 100) == pytest.approx(0.55)


def test_the_start_of_the_decay() -> None:
    assert decay_start(Schedule.parse("wsd(warmup=5%, decay=20%)")) == pytest.approx(0.8)
    assert decay_start(Schedule.parse("linear(warmup=5%)")) is None
    assert decay_start(Schedule.parse("constant")) is None


def test_a_run_folder_is_an_artifact_with_a_model_and_metrics(table: Table, store: Path, tmp_path: Path) -> None:
    recipe = table(hooks=[{"is": "ema"}])
    result = start(recipe, tmp_path / "run")
    artifact = Artifact.open(tmp_path / "run", "run")
    artifact.verify()
    assert artifact.manifest.parents["tokens"]["path"] == str(store.resolve())
    assert result.metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    assert {"heldout_loss", "heldout_accuracy", "bits_per_byte", "parameters", "mfu"} <= set(result.metrics)
    assert json.loads((tmp_path / "run" / RECIPE).read_text()) == recipe.encode()
    loaded = load_model(tmp_path / "run")
    assert loaded.artifact is not None
    assert loaded.artifact.manifest.metrics["heldout_loss"] == result.metrics["heldout_loss"]
    lines = read_log(tmp_path / "run/log.jsonl")
    assert sum("heldout_loss" in line for line in lines) >= 1
    assert {"step", "tokens", "loss", "lr", "grad_norm", "mask_rate", "tokens_per_s", "elapsed"} <= set(lines[0])


def test_scores_keep_to_their_fraction_of_the_time(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encodery.train.pretrain import PretrainJob

    def slow(self: PretrainJob, tokens: int) -> dict[str, float]:
        time.sleep(0.05)
        return {"loss": 1.0}

    monkeypatch.setattr(PretrainJob, "score", slow)
    train = {"budget": "1s", "evals": 1000, "eval_time_fraction": 0.2, "checkpoint_every": "1h"}
    result = start(table(train=train), tmp_path / "run")
    scores = sum("heldout_loss" in line for line in read_log(tmp_path / "run/log.jsonl"))
    assert 2 <= scores <= 7, "0.2 s of 1 s, besides the last score"
    assert result.metrics["seconds"] < 3


def test_the_loss_falls(table: Table, losses: Losses, tmp_path: Path) -> None:
    start(table(train={"budget": "60steps", "batch_tokens": 512, "micro_batch_tokens": 512}), tmp_path / "run")
    results = losses(tmp_path / "run")
    assert sum(list(results.values())[-5:]) / 5 < results[1] - 0.6


SIGNALLED = """
import json, sys
from pathlib import Path
from encodery.cli.resume import report
from encodery.train.launch import decode_recipe, start
from rich.console import Console
report(start(decode_recipe(json.loads(Path({recipe!r}).read_text())), Path({folder!r})), Console())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_prints_the_command_to_resume(
    table: Table,
    losses: Losses,
    tmp_path: Path,
    spawn: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
) -> None:
    recipe = table(train={"budget": "400steps", "checkpoint_every": "1h"})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    folder = tmp_path / "run"
    process = spawn(SIGNALLED.format(recipe=str(tmp_path / "recipe.json"), folder=str(folder)))
    while process.poll() is None and not ((folder / "log.jsonl").exists() and (folder / "log.jsonl").stat().st_size):
        time.sleep(0.01)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert f"encodery resume {folder}" in out
    done = len(losses(folder))
    assert 0 < done < 400
    resume(folder)
    start(recipe, tmp_path / "whole")
    assert losses(folder) == losses(tmp_path / "whole")


def test_the_second_signal_stops_at_once() -> None:
    with catch_signals() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.signal_name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_display_on_a_terminal_and_elsewhere() -> None:
    import io

    from rich.console import Console

    line = {
        "step": 3,
        "tokens": 5000,
        "elapsed": 61.0,
        "progress": 0.1,
        "loss": 2.5,
        "tokens_per_s": 1000.0,
        "lr": 1e-3,
    }
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120)
        with ConsoleDisplay(console) as display:
            display.show(line)
            display.show({**line, "heldout_loss": 2.4, "heldout_accuracy": 0.5, "bits_per_byte": 1.1})
            display.show({**line, "step": 4, "elapsed": 71.0, "progress": 0.2, "mfu": 0.41})
        text = out.getvalue()
        assert "2.500" in text
        assert "1,000 tokens/s" in text
        assert "41%" in text
        assert "accuracy 50.0%" in text
        assert format_duration(80) in text, "10 s for a tenth of the budget leave 80 s"
        out.truncate(0)
        with ConsoleDisplay(console) as display:
            display.show(line)
        assert terminal or out.getvalue().count("step 3") == 1, "the last line must not be printed twice"
    assert format_duration(3723) == "1:02:03"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "10"}, "unit"),
        ({"checkpoint_every": "often"}, "checkpoint_every"),
        ({"batch_tokens": Schedule.parse("0 -> 10 linear")}, "batch_tokens"),
        ({"eval_time_fraction": 1.0}, "eval_time_fraction"),
        ({"keep": 0}, "keep"),
        ({"threads": 0}, "threads"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**settings)
