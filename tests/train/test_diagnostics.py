"""Diagnostics: what limits the speed of a run, and the price of padded attention."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from encodery.base.settings import decode
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.train.diagnostics import MIN_STEPS, WARMUP_STEPS, Diagnostics, padded_attention_warning
from encodery.train.launch import start
from encodery.train.recipe import Recipe


def measured(device: str, data: float, compute: float, update: float, flops: float = 1.0) -> Diagnostics:
    return Diagnostics(device, {"data": data, "compute": compute, "update": update}, 1000, flops)


@pytest.mark.parametrize(
    ("diagnostics", "peak_flops", "pattern"),
    [
        (measured("cpu", 2, 7, 1), 0.1, "^Data-bound: 20%"),
        (measured("cuda", 2, 7, 1), 0.1, "^Data-bound: 20%"),
        (measured("cpu", 10, 88, 2), 0.0, "^Data-bound: 10%"),
        (measured("cpu", 9.9, 88.1, 2), 0.0, r"^Compute-bound.*: 9\.9% of the time waits for data\.$"),
        (measured("cpu", 0.1, 8, 1.9, flops=5), 1.0, r"^Compute-bound, as it should be: 1\.0% .* 50% of"),
        (measured("cpu", 0.1, 8, 1.9, flops=1), 1.0, "small operations: matrix products reach 10%"),
        (measured("cpu", 0.1, 69.9, 30, flops=1), 1.0, "^Update-bound: 30%"),
        (measured("cpu", 0.1, 70.2, 29.7, flops=1), 1.0, "small operations"),
        (measured("cpu", 0.1, 8, 1.9), 0.0, r"^Compute-bound.*waits for data\.$"),
        (measured("cuda", 0.1, 9.4, 0.5), 1.0, "^Launch-bound: .*in 5% of the time"),
        (measured("cuda", 0.1, 84.9, 15), 1.0, "^Compute-bound, as it should be: 15%"),
        (measured("cuda", 0.1, 1.9, 8), 1.0, "^Compute-bound, as it should be: 80%"),
    ],
)
def test_the_summary_names_what_limits_a_run(diagnostics: Diagnostics, peak_flops: float, pattern: str) -> None:
    assert re.search(pattern, diagnostics.summary(peak_flops)), diagnostics.summary(peak_flops)


def test_the_first_steps_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    diagnostics = Diagnostics("cpu")
    for number in range(WARMUP_STEPS + MIN_STEPS):
        assert not diagnostics.ready
        with diagnostics.timed("data"):
            now[0] += 5.0 if number < WARMUP_STEPS else 0.25
        with diagnostics.timed("compute"):
            now[0] += 0.75
        diagnostics.count_step(3.0)
    assert diagnostics.ready
    assert diagnostics.time_fraction("data") == 0.25
    assert diagnostics.flops == 3.0 * MIN_STEPS
    assert Diagnostics("cpu").time_fraction("data") == 0.0


def test_padded_attention_is_named_with_its_price() -> None:
    layout = Batch.from_sequences([[5] * 40] * 8).layout
    base = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 60, "max_length": 64}
    before, cpu = torch.get_rng_state(), torch.device("cpu")
    with_dropout = decode(ModelSettings, {**base, "attention": {"is": "full", "dropout": 0.1}})
    warning = padded_attention_warning(with_dropout, layout, cpu, torch.float32)
    assert warning is not None
    for part in ("dropout 0.1", "times as long as the packed kernel", "model.attention.dropout=0"):
        assert part in warning
    assert torch.equal(before, torch.get_rng_state())
    assert padded_attention_warning(decode(ModelSettings, base), layout, cpu, torch.float32) is None


def test_a_run_reports_its_bottleneck(table: Callable[..., Recipe[Any]], tmp_path: Path) -> None:
    train = {"budget": f"{WARMUP_STEPS + MIN_STEPS + 2}steps", "evals": 0, "checkpoint_every": "100steps"}
    out = io.StringIO()
    recipe = table(train=train, model={"attention": {"is": "full", "dropout": 0.1}})
    metrics = start(recipe, tmp_path / "run", Console(file=out, width=400)).metrics
    bottleneck, data = metrics["bottleneck"], metrics["data_fraction"]
    assert re.match("(Data|Update|Compute)-bound|Bound by memory", bottleneck), bottleneck
    assert bottleneck.startswith("Data-bound") == (data >= 0.1)
    assert 0 < data < 1, "batches take some of the time, and not all of it"
    assert re.search("-bound: |Bound by memory|Compute-bound", out.getvalue()), "the summary is shown during the run"
    assert "model.attention.dropout=0" in out.getvalue()
