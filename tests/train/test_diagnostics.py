"""The doctor: what a run is bound by, in words, and what slow attention costs."""

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


def seen(device: str, data: float, compute: float, update: float, flops: float = 1.0) -> Diagnostics:
    return Diagnostics(device, {"data": data, "compute": compute, "update": update}, 1000, flops)


@pytest.mark.parametrize(
    ("doctor", "peak", "said"),
    [
        (seen("cpu", 2, 7, 1), 0.1, "Data-bound: 20%"),
        (seen("cuda", 2, 7, 1), 0.1, "Data-bound: 20%"),
        (seen("cpu", 0.1, 8, 1.9, flops=5), 1.0, "Compute-bound, as it should be: 1.0% .* 50% of"),
        (seen("cpu", 0.1, 8, 1.9, flops=1), 1.0, "small operations: matrix products reach 10%"),
        (seen("cpu", 0.1, 5.9, 4, flops=1), 1.0, "Update-bound: 40%"),
        (seen("cpu", 0.1, 8, 1.9), 0.0, r"Compute-bound.*waits for data\.$"),
        (seen("cuda", 0.1, 9.4, 0.5), 1.0, r"Launch-bound: .*\(5% of"),
        (seen("cuda", 0.1, 1.9, 8), 1.0, "Compute-bound, as it should be: 80%"),
    ],
)
def test_verdicts(doctor: Diagnostics, peak: float, said: str) -> None:
    assert re.search(said, doctor.summary(peak)), doctor.summary(peak)


def test_the_first_steps_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    doctor = Diagnostics("cpu")
    for number in range(WARMUP_STEPS + MIN_STEPS):
        assert not doctor.ready
        with doctor.timed("data"):
            now[0] += 5.0 if number < WARMUP_STEPS else 0.25
        with doctor.timed("compute"):
            now[0] += 0.75
        doctor.count_step(3.0)
    assert doctor.ready
    assert doctor.time_fraction("data") == 0.25
    assert doctor.flops == 3.0 * MIN_STEPS
    assert Diagnostics("cpu").time_fraction("data") == 0.0


def test_slow_attention_is_named_with_its_price() -> None:
    layout = Batch.from_sequences([[5] * 40] * 8).layout
    base = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 60, "max_length": 64}
    before = torch.get_rng_state()
    dropped = decode(ModelSettings, {**base, "attention": {"is": "full", "dropout": 0.1}})
    said = padded_attention_warning(dropped, layout, torch.device("cpu"), torch.float32)
    assert said is not None
    assert "dropout 0.1" in said
    assert "times the time" in said
    assert "model.attention.dropout=0" in said
    assert torch.equal(before, torch.get_rng_state())
    assert padded_attention_warning(decode(ModelSettings, base), layout, torch.device("cpu"), torch.float32) is None


def test_a_run_says_what_it_is_bound_by(table: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = {"budget": f"{WARMUP_STEPS + MIN_STEPS + 2}steps", "evals": 0, "checkpoint_every": "100steps"}
    said = io.StringIO()
    recipe = table(train=train, model={"attention": {"is": "full", "dropout": 0.1}})
    result = start(recipe, tmp_path / "run", Console(file=said, width=400))
    assert 0 <= result.metrics["data_fraction"] <= 1
    assert "bottleneck" in result.metrics["bottleneck"].lower()
    assert "ound" in said.getvalue()
    assert "model.attention.dropout=0" in said.getvalue()
