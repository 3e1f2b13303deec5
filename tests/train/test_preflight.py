"""Preflight: the measurement changes nothing, numbers add up, a run that does not fit is refused; number formats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base import machine
from encodery.base.errors import SettingsError, UserError
from encodery.train import launch, precision, preflight
from encodery.train.distributed import DistributedContext
from encodery.train.execution import RunningExecution
from encodery.train.execution.plain import Plain
from encodery.train.job import Job
from encodery.train.launch import start
from encodery.train.memory_estimate import MemoryEstimate, format_bytes
from encodery.train.optim import Optimizer
from encodery.train.optim.muon import Muon
from encodery.train.preflight import MeasuredSpeed, RunForecast, measure_speed
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

Table = Callable[..., Recipe[Any]]
Losses = Callable[[Path], dict[int, float]]
CPU, SINGLE = torch.device("cpu"), DistributedContext()


def plain(job: Job) -> RunningExecution:
    return Plain().build(job, SINGLE, CPU)


@pytest.mark.parametrize("optim", [None, Muon(lr=0.02)])
def test_measuring_changes_nothing(table: Table, optim: Optimizer | None) -> None:
    job = PretrainJob.from_recipe(table(model={"dropout": 0.1}), SINGLE, CPU)
    settings = job.settings
    weights = {name: tensor.clone() for name, tensor in job.module.state_dict().items()}
    state, generator = job.state(), torch.get_rng_state()
    speed = measure_speed(plain(job), dataclasses.replace(settings, optim=optim or settings.optim), SINGLE)
    assert speed.tokens_per_s > 0
    assert speed.number_format == "fp32"
    assert job.state() == state
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weights[name], tensor) for name, tensor in job.module.state_dict().items())
    assert all(p.grad is None for p in job.module.parameters())


@pytest.mark.parametrize(("spent", "repeats"), [(0.001, 20), (0.1, 10), (30.0, 1)])
def test_the_speed_is_that_of_steps_on_new_batches(
    spent: float, repeats: int, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = PretrainJob.from_recipe(table(train={"batch_tokens": 1024, "micro_batch_tokens": 256}), SINGLE, CPU)
    drawn, draw = [], job.batches
    monkeypatch.setattr(job, "batches", lambda *sizes: drawn.append(draw(*sizes)) or drawn[-1])

    def timed(function: Callable[[], object], device: torch.device) -> float:
        function()
        return spent

    monkeypatch.setattr(machine, "seconds_of", timed)
    speed = measure_speed(plain(job), job.settings, SINGLE)
    steps = drawn[1:]  # The first one is for choosing a format.
    assert len({work.micro_batches[0].batch.ids.numpy().tobytes() for work in steps}) == len(steps) == repeats
    assert speed.tokens_per_s == pytest.approx(sum(work.tokens for work in steps) / (repeats * spent * 1.25))


def test_a_forecast_adds_up() -> None:
    needs = MemoryEstimate(1, 1)
    settings = TrainSettings(budget="100s", eval_time_fraction=0.1, batch_tokens=forecast_schedule("1000"))
    made = RunForecast.make(settings, 500.0, 22_500, needs, (0.0, 0, 0))
    assert (made.tokens, made.steps, made.epochs) == (45_000, 45, 2.0)
    assert made.seconds == pytest.approx(100)
    settings = TrainSettings(budget="1Mtok", evals=0, batch_tokens=forecast_schedule("500 -> 1500 linear"))
    made = RunForecast.make(settings, 500.0, 0, needs, (10.0, 250_000, 3))
    assert (made.tokens, made.steps, made.seconds) == (750_000, 750, 1500.0)
    message = " ".join(made.describe(MeasuredSpeed("fp32", "given", 500.0), 1_200_000, 2**30, 2**31))
    for part in ("1.2 M parameters", "750 steps", "25 min", "1.0 GiB free", "2.0 GiB free"):
        assert part in message


def forecast_schedule(text: str) -> Any:
    from encodery.base.schedule import Schedule

    return Schedule.parse(text)


def test_a_run_that_does_not_fit_is_refused_with_numbers(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = table(model={"width": 8192, "depth": 48, "heads": 64, "intermediate_size": 32768})
    monkeypatch.setattr(machine, "memory_free", lambda: 4 * 2**30)
    with pytest.raises(UserError, match=r"GiB of memory and 4\.0 GiB are free"):
        start(huge, tmp_path / "run")
    monkeypatch.setattr(machine, "disk_free", lambda path: 10_000)
    with pytest.raises(UserError, match="on disk"):
        start(table(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_memory_estimate_grows_with_averages_and_kept_checkpoints() -> None:
    plain = MemoryEstimate.of(1000, 500, averages=0, keep=2)
    assert plain == MemoryEstimate(16_500, 12_000 * 4 + 4000, 500)
    more = MemoryEstimate.of(1000, 500, averages=1, keep=3)
    assert more == MemoryEstimate(20_500, 16_000 * 5 + 4000, 500)
    assert format_bytes(3 * 2**30) == "3.0 GiB"


def test_formats_follow_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native_bf16", lambda: False)
    assert precision.candidate_formats("auto", CPU) == ("fp32",)
    assert precision.candidate_formats("bf16", CPU) == ("bf16",), "a format that is set is used"
    monkeypatch.setattr(machine, "native_bf16", lambda: True)
    assert precision.candidate_formats("auto", CPU) == ("fp32", "bf16")
    assert precision.candidate_formats("fp32", CPU) == ("fp32",)
    assert precision.fastest_format({"fp32": 100.0, "bf16": 104.0})[0] == "fp32"
    chosen, reason = precision.fastest_format({"fp32": 100.0, "bf16": 150.0})
    assert chosen == "bf16"
    assert "1.50" in reason
    assert precision.fastest_format({"fp32": 100.0, "fp16": 180.0}) == (
        "fp16",
        "measured: fp16 is 1.80 times as fast as fp32 at this shape",
    )
    assert precision.fastest_format({"fp32": 100.0})[0] == "fp32"
    assert "no hardware" in precision.fastest_format({"fp32": 100.0})[1]
    assert precision.fastest_format({"fp16": 1.0}, "fp16") == ("fp16", "as set")


@pytest.mark.parametrize(("native", "offered"), [(True, ("fp32", "bf16")), (False, ("fp32", "fp16"))])
def test_a_cuda_device_without_bf16_is_offered_fp16(
    native: bool, offered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: native)
    assert precision.candidate_formats("auto", torch.device("cuda")) == offered
    if not native:
        with pytest.raises(SettingsError, match="Use fp16"):
            precision.candidate_formats("bf16", torch.device("cuda"))


def test_fp8_needs_its_hardware_and_is_used_only_if_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"8\.9"):
        precision.candidate_formats("fp8", CPU)
    for capability, has in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, results=capability: results)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: True)
        assert "fp8" not in precision.candidate_formats("auto", torch.device("cuda"))
        if has:
            assert precision.candidate_formats("fp8", torch.device("cuda")) == ("fp8",)
        else:
            with pytest.raises(SettingsError, match="Use bf16"):
                precision.candidate_formats("fp8", torch.device("cuda"))


def test_fp8_is_used_in_the_layers_of_blocks_and_close_to_bf16(table: Table) -> None:
    from encodery.model.weights import Linear

    job = PretrainJob.from_recipe(
        table(model={"width": 32, "heads": 2, "intermediate_size": 64}), DistributedContext(), CPU
    )
    work = job.batches(0, 0.0, 512, None)
    results = {}
    for chosen in ("fp32", "bf16", "fp8"):
        job.module.zero_grad()
        precision.set_linear_format(job.module, chosen)
        narrow = {name for name, m in job.module.named_modules() if isinstance(m, Linear) and m.float8}
        assert bool(narrow) == (chosen == "fp8")
        assert all(".blocks." in name for name in narrow)
        terms = [one["mlm"] for one in forward_backward(plain(job), work, SINGLE, chosen, 0, 0)]
        grads = {n: p.grad.clone() for n, p in job.module.named_parameters() if p.grad is not None}
        results[chosen] = (float(sum(t.total for t in terms) / sum(t.count for t in terms)), grads)
    loss, grads = results["fp8"]
    assert loss != results["bf16"][0]
    assert loss == pytest.approx(results["bf16"][0], rel=0.01)
    for name, expected in results["fp32"][1].items():
        cosine = torch.nn.functional.cosine_similarity(grads[name].flatten(), expected.flatten(), 0)
        assert cosine > 0.97, name


def test_the_loss_scale_does_not_change_gradients(table: Table) -> None:
    from encodery.train.clip import clip_gradients

    job = PretrainJob.from_recipe(table(), SINGLE, CPU)
    work = job.batches(0, 0.0, 256, None)
    results = []
    for scale in (1.0, 2.0**16):
        job.module.zero_grad()
        forward_backward(plain(job), work, SINGLE, "fp32", 0, 0, scale)
        norm = clip_gradients(job.module.parameters(), 0.25, scale)
        results.append((norm, [p.grad.clone() for p in job.module.parameters() if p.grad is not None]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_auto_uses_the_faster_format(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native_bf16", lambda: True)
    for spent, chosen in (({"fp32": 1.0, "bf16": 2.0}, "fp32"), ({"fp32": 2.0, "bf16": 1.0}, "bf16")):
        monkeypatch.setattr(preflight, "_time_formats", lambda *_, spent=spent: spent)
        job = PretrainJob.from_recipe(table(train={"precision": "auto"}), SINGLE, CPU)
        assert measure_speed(plain(job), job.settings, SINGLE).number_format == chosen


def test_shorter_formats_train_as_fp32_does(table: Table, losses: Losses, tmp_path: Path) -> None:
    train = {"budget": "60steps", "batch_tokens": 512, "micro_batch_tokens": 512}
    curves = []
    for kind in ("fp32", "bf16", "fp16"):
        result = start(table(train={**train, "precision": kind}), tmp_path / kind)
        assert result.metrics["precision"] == kind
        curves.append(list(losses(tmp_path / kind).values()))
    fp32, *shorter = curves
    assert sum(fp32[-10:]) / 10 < fp32[0] - 0.5
    for curve in shorter:
        assert fp32 != curve
        assert sum(curve[-10:]) / 10 == pytest.approx(sum(fp32[-10:]) / 10, abs=0.1)


def test_unknown_devices_are_refused_by_name() -> None:
    for name in ("gpu", "cuda:9"):
        with pytest.raises(SettingsError, match=name):
            launch._device(TrainSettings(device=name))


@pytest.mark.parametrize("block", ["pre", "post"])
def test_bf16_keeps_the_residual_stream_in_fp32(table: Table, block: str) -> None:
    job = PretrainJob.from_recipe(table(model={"block": block, "depth": 2}), SINGLE, CPU)
    batch = job.batches(0, 0.0, 256, None).micro_batches[0].batch
    with precision.autocast("bf16", CPU):
        output = job.model(batch, keep_layers=True)
    assert output.layers is not None
    assert {layer.dtype for layer in output.layers} == {torch.float32}
