"""Expected losses: fitted to our own runs, unknown outside their ranges, with one warning for a loss outside."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from encodery.cli.__main__ import run as encodery
from encodery.evaluate.report.run_facts import read_run
from encodery.evaluate.report.summary import summary
from encodery.objectives import LossRange, RunSize
from encodery.objectives import _expected_loss as rule
from encodery.tokens.store import TokenStore
from encodery.tokens.unigram_baseline import unigram_baseline
from encodery.train.diagnostics import Diagnostics
from encodery.train.distributed import DistributedContext
from encodery.train.launch import resume, start
from encodery.train.pretrain import PretrainJob, pretrain_recipe
from encodery.train.pretrain_settings import read_settings
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
HEALTHY = [  # how it began, guess by frequency, parameters, vocabulary, tokens, steps, held-out loss: of runs of ours
    ("random", 6.212, 1_401_600, 8192, 12_502_436, 6115, 3.081),
    ("random", 6.212, 1_401_600, 8192, 1_762_000, 860, 4.027),
    ("random", 6.788, 4_787_200, 8192, 10_657_169, 5213, 4.120),
    ("random", 6.222, 2_540_000, 16_384, 1_056_978, 517, 5.386),
    ("random", 6.222, 7_470_000, 16_384, 333_770, 163, 5.684),
    ("random", 6.605, 1_401_600, 8192, 752_000, 365, 5.650),
    ("cooccurrence", 6.212, 4_794_880, 8192, 1_510_000, 740, 3.465),
    ("cooccurrence", 6.212, 618_880, 8192, 1_120_000, 540, 4.150),
    ("cooccurrence", 6.212, 1_401_600, 8192, 8_030_000, 3920, 2.981),
    ("cooccurrence", 6.222, 2_458_368, 16_384, 480_000, 230, 4.311),
    ("cooccurrence", 6.788, 4_794_880, 8192, 360_000, 176, 5.773),
    ("bigrams", 6.212, 4_798_976, 8192, 1_181_637, 578, 3.246),
    ("bigrams", 6.212, 619_392, 8192, 2_647_510, 1295, 3.600),
    ("bigrams", 6.212, 1_402_624, 8192, 7_675_213, 3754, 2.786),
    ("bigrams", 6.222, 6_904_320, 16_384, 457_999, 224, 3.721),
    ("bigrams", 6.788, 1_402_624, 8192, 1_116_108, 546, 4.910),
]


@pytest.mark.parametrize("arguments", HEALTHY)
def test_our_own_runs_are_inside_the_range(arguments: tuple[str, float, int, int, int, int, float]) -> None:
    begin, *place, loss = arguments
    band = LossRange.of(RunSize(*place, data_init=begin))
    assert band is not None
    assert band.contains(loss)
    assert "is usual" in band.describe(loss)


def test_the_range_depends_on_the_initialisation() -> None:
    place = (6.2, 1_400_000, 8192, 2_000_000, 1000)
    bands = [LossRange.of(RunSize(*place, data_init=begin)) for begin in ("random", "cooccurrence", "bigrams")]
    for more, less in itertools.pairwise(bands):
        assert more is not None
        assert less is not None
        assert less.high < more.high
        assert less.low + less.high < more.low + more.high
    assert LossRange.of(RunSize(*place, data_init="mine.of_my_own")) is None


def test_a_loss_outside_is_described_with_its_cause() -> None:
    band = LossRange.of(RunSize(6.2, 1_400_000, 8192, 2_000_000, 1000))
    assert band is not None
    assert not band.contains(6.2), "the unigram baseline is not usual after two million tokens"
    assert not band.contains(float("nan"))
    assert f"usual at this size is between {band.low:.1f} and {band.high:.1f}" in band.describe(6.2)
    assert "train.batch_tokens" in band.describe(6.2)
    assert "also occurs in the training text" in band.describe(0.9)


@pytest.mark.parametrize(
    "place",
    [
        *((10**5, 8192, 10**6, 500), (10**8, 8192, 10**6, 500), (10**6, 8192, 10**5, 500), (10**6, 8192, 10**8, 500)),
        *((10**6, 300, 10**6, 500), (10**6, 60_000, 10**6, 500), (10**6, 8192, 10**6, 20)),
    ],
)
def test_nothing_is_known_outside_the_ranges(place: tuple[int, int, int, int]) -> None:
    assert LossRange.of(RunSize(6.2, *place)) is None


def test_more_tokens_and_parameters_lower_the_range() -> None:
    def high(parameters: int, tokens: int) -> float:
        band = LossRange.of(RunSize(6.2, parameters, 8192, tokens, 500))
        assert band is not None
        return band.high

    assert high(10**6, 10**6) > high(10**6, 4 * 10**6) > high(4 * 10**6, 4 * 10**6)


def test_a_loss_outside_is_warned_about_once() -> None:
    doctor, band = Diagnostics("cpu"), LossRange(4.0, 5.0, 10**6)
    assert doctor.check_loss(4.5, band) is None
    assert "is usual" in doctor.loss_assessment
    assert "6.00 after 1.0 M" in (doctor.check_loss(6.0, band) or "")
    assert doctor.check_loss(7.0, band) is None
    assert "7.00" in doctor.loss_assessment, "the report has the last loss"
    again = Diagnostics("cpu")
    again.load_state(json.loads(json.dumps(doctor.state())))
    assert again.check_loss(7.0, band) is None, "a resumed run must not warn again"
    assert doctor.check_loss(7.0, None) is None
    assert doctor.loss_assessment == ""


def run_and_log(recipe: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """The output of a run and its metrics."""
    message = io.StringIO()
    result = start(recipe, folder, Console(file=message, width=400))
    return message.getvalue(), result.metrics


def open_up(patch: pytest.MonkeyPatch) -> None:
    """Extend the ranges to models and runs that are far too small; the tests check who is warned, about what, and how
    often."""
    patch.setattr(rule, "RANGES", dict.fromkeys(rule.RANGES, (0.0, 1e12)))
    patch.setattr(rule, "CURVES", {name: curve._replace(below=2.0) for name, curve in rule.CURVES.items()})


def test_a_run_warns_of_an_absurd_learning_rate_only(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"budget": "30steps", "evals": 6, "eval_time_fraction": 0.9}
    message, metrics = run_and_log(table(train=train), tmp_path / "silent")
    assert "loss_assessment" not in metrics
    open_up(monkeypatch)
    message, metrics = run_and_log(table(train=train), tmp_path / "healthy")
    assert "is usual for this size" in metrics["loss_assessment"]
    assert "Held-out loss" not in message
    message, metrics = run_and_log(table(train=train, optim={"lr": 30.0}), tmp_path / "absurd")
    assert message.count("usual at this size is between") == 1
    assert "optim.lr = 30 is 1e+04 times what --size gives to this width (0.003)" in metrics["loss_assessment"]
    assert metrics["loss_assessment"] in summary(read_run(tmp_path / "absurd"))
    message, metrics = run_and_log(table(train=train, init_from=str(tmp_path / "healthy")), tmp_path / "further")
    assert "loss_assessment" not in metrics, "no range is known for a run that continues another one"


def test_a_resumed_run_does_not_warn_again(
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    power_cut: Callable[[int], AbstractContextManager[None]],
) -> None:
    open_up(monkeypatch)
    train = {"budget": "30steps", "evals": 6, "eval_time_fraction": 0.9, "checkpoint_every": "5steps"}
    message = io.StringIO()
    with power_cut(20):
        start(table(train=train, optim={"lr": 30.0}), tmp_path / "run", Console(file=message, width=400))
    metrics = resume(tmp_path / "run", Console(file=message, width=400)).metrics
    assert message.getvalue().count("usual at this size is between") == 1
    assert "usual at this size is between" in metrics["loss_assessment"]


def test_only_runs_like_the_fitted_ones_are_compared(table: Table) -> None:
    def usual(**over: Any) -> LossRange | None:
        job = PretrainJob.from_recipe(table(**over), DistributedContext(), torch.device("cpu"))
        return job.expected_loss(10**6, 1000)

    assert usual() is None, "the model is too small"
    with pytest.MonkeyPatch.context() as patch:
        open_up(patch)
        usually = usual(optim={"lr": 0.003})
        assert usually is not None
        assert usually.hint == LossRange.hint
        assert "1/30 of" in (results.hint if (results := usual(optim={"lr": 1e-4})) else "")
        assert usual(objective={"is": "masked_autoencoder", "depth": 1}) is None


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "fine"), [(0.003, True), (3.0, False)])
def test_real_text_is_inside_at_a_usual_rate_only(tmp_path: Path, rate: float, fine: bool) -> None:
    """The sources of Python as text, with a model and a length inside the ranges."""
    (tmp_path / "text").mkdir()
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        (tmp_path / "text" / f"{path.stem}.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for words in (
        ["corpus", "build", str(tmp_path / "text"), "--out", str(tmp_path / "corpus")],
        ["tokens", "train", str(tmp_path / "corpus"), "vocab_size=2048", "--out", str(tmp_path / "tokenizer")],
        [
            "tokens",
            "encode",
            str(tmp_path / "corpus"),
            "--tokenizer",
            str(tmp_path / "tokenizer"),
            "--out",
            str(tmp_path / "tokens"),
        ],
    ):
        assert encodery(words) == 0
    store = TokenStore.open(tmp_path / "tokens")
    assert unigram_baseline(store) is not None
    train = {"budget": "400ktok", "evals": 4, "eval_time_fraction": 0.5, "threads": 1, "checkpoint_every": "1h"}
    over = {"model": {"width": 64, "heads": 1, "intermediate_size": 128}, "optim": {"lr": rate}, "train": train}
    metrics = start(pretrain_recipe(read_settings("tiny", over, store), store, "tiny"), tmp_path / "run").metrics
    assert ("is usual" in metrics["loss_assessment"]) == fine, metrics["loss_assessment"]
