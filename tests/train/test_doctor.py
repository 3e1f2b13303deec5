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
from encodery.model.network import ModelSettings
from encodery.model.shape import Batch
from encodery.train.doctor import ENOUGH, SOON, Doctor, slow_attention
from encodery.train.launch import start


def seen(device: str, data: float, compute: float, update: float, flops: float = 1.0) -> Doctor:
    return Doctor(device, {"data": data, "compute": compute, "update": update}, 1000, flops)


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
def test_verdicts(doctor: Doctor, peak: float, said: str) -> None:
    assert re.search(said, doctor.verdict(peak)), doctor.verdict(peak)


def test_the_first_steps_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    doctor = Doctor("cpu")
    for number in range(SOON + ENOUGH):
        assert not doctor.knows
        with doctor.watch("data"):
            now[0] += 5.0 if number < SOON else 0.25
        with doctor.watch("compute"):
            now[0] += 0.75
        doctor.step(3.0)
    assert doctor.knows
    assert doctor.share("data") == 0.25
    assert doctor.flops == 3.0 * ENOUGH
    assert Doctor("cpu").share("data") == 0.0


def test_slow_attention_is_named_with_its_price() -> None:
    layout = Batch.from_sequences([[5] * 40] * 8).layout
    base = {"width": 32, "depth": 1, "heads": 2, "vocab": 60, "max_length": 64}
    before = torch.get_rng_state()
    dropped = decode(ModelSettings, {**base, "attention": {"is": "full", "dropout": 0.1}})
    said = slow_attention(dropped, layout, torch.device("cpu"), torch.float32)
    assert said is not None
    assert "dropout 0.1" in said
    assert "times the time" in said
    assert "model.attention.dropout=0" in said
    assert torch.equal(before, torch.get_rng_state())
    assert slow_attention(decode(ModelSettings, base), layout, torch.device("cpu"), torch.float32) is None


def test_a_run_says_what_it_is_bound_by(table: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train = {"budget": f"{SOON + ENOUGH + 2}steps", "evals": 0, "checkpoint_every": "100steps"}
    said = io.StringIO()
    recipe = table(train=train, model={"attention": {"is": "full", "dropout": 0.1}})
    result = start(recipe, tmp_path / "run", Console(file=said, width=400))
    assert 0 <= result.figures["data_share"] <= 1
    assert "bound" in result.figures["bound"].lower()
    assert "ound" in said.getvalue()
    assert "model.attention.dropout=0" in said.getvalue()
