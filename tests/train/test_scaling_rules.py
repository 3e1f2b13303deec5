"""Sizes by rule: close to the requested number of parameters, and with settings that a run accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.cli.__main__ import run
from encodery.model import count
from encodery.model.settings import ModelSettings
from encodery.tokens.store import TokenStore
from encodery.train.pretrain_settings import read_settings
from encodery.train.scaling_rules import (
    _at_width,
    _batch_tokens,
    default_lr,
    model_for_size,
    parse_size,
    settings_for_size,
)

LIKE = ModelSettings(width=128, heads=2, intermediate_size=256, vocab_size=16_384)


@pytest.mark.parametrize("size", ["5M", "10M", "17M", "30M", "68M", "150M", "400M"])
def test_a_model_has_the_parameters_asked_for(size: str) -> None:
    model = model_for_size(size, LIKE)
    assert count.num_parameters(model) == pytest.approx(parse_size(size), rel=0.12)
    assert model.width == 64 * model.heads
    assert model.intermediate_size == 2 * model.width
    assert 12 <= model.width / model.depth <= 64


@pytest.mark.parametrize(("width", "depth"), [(64, 2), (128, 4), (384, 11), (768, 21), (1152, 32)])
def test_there_is_a_layer_for_every_36_of_width(width: int, depth: int) -> None:
    assert _at_width(width, LIKE).depth == depth == max(2, round(width / 36))
    assert _at_width(width, LIKE).intermediate_size == 2 * width


@pytest.mark.parametrize(("width", "lr"), [(64, 3e-3), (128, 3e-3), (256, 2e-3), (768, 6.7e-4), (1024, 5e-4)])
def test_the_learning_rate_falls_with_the_width(width: int, lr: float) -> None:
    assert default_lr(width) == lr


@pytest.mark.parametrize(
    ("parameters", "tokens"), [(1e5, 2048), (2.6e6, 2048), (5.2e6, 4096), (83.2e6, 65_536), (1e12, 524_288)]
)
def test_the_batch_grows_with_the_parameters(parameters: float, tokens: int) -> None:
    assert _batch_tokens(int(parameters)) == tokens


def test_larger_models_have_lower_rates_and_larger_steps() -> None:
    by_size = [settings_for_size(size, LIKE, "1h", 512) for size in ("2M", "10M", "30M", "100M", "400M")]
    rates = [each["optim"]["lr"] for each in by_size]
    steps = [Schedule.parse(each["train"]["batch_tokens"]).maximum for each in by_size]
    assert rates == sorted(rates, reverse=True)
    assert steps == sorted(steps)
    assert rates[0] <= 3e-3
    assert max(steps) == 524_288
    few = settings_for_size("400M", LIKE, "50Mtok", 512)["train"]["batch_tokens"]
    assert few == 65_536 or Schedule.parse(few).maximum <= 524_288
    assert settings_for_size("400M", LIKE, "1Mtok", 512)["train"]["batch_tokens"] == 1024


def test_the_recipes_follow_the_rule(store: Path) -> None:
    opened = TokenStore.open(store)
    for name in ("tiny", "mini", "small"):
        settings = read_settings(name, {}, opened)
        assert settings.optim.lr == pytest.approx(min(0.512 / settings.model.width, 3e-3), rel=0.03)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match="such as 1M"):
        parse_size("big")
    with pytest.raises(SettingsError, match="smaller vocabulary"):
        model_for_size("100k", LIKE)


def test_a_size_and_a_budget_suffice_to_train(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    before = torch.get_num_threads()
    over = ["train.threads=1", "train.eval_tokens=300", "train.precision=fp32"]
    try:
        command = [
            "pretrain",
            str(store),
            "--recipe",
            "tiny",
            "--out",
            str(tmp_path / "run"),
            "--size",
            "150k",
            "--budget",
            "3steps",
        ]
        assert run([*command, *over]) == 0, capsys.readouterr()
    finally:
        torch.set_num_threads(before)
    assert "150k: 3 layers of width 64, learning rate 0.003" in capsys.readouterr().out
    assert run([*command[:4], "--out", str(tmp_path / "b"), "--size", "1M", f"init_from={tmp_path / 'run'}"]) == 2
    assert "cannot be combined with init_from" in capsys.readouterr().err
