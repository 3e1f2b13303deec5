"""Training in stages: what each stage starts from, how an interrupted one is continued, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.cli.__main__ import run
from encodery.model.load import load_model
from encodery.tokens.store import TokenStore
from encodery.train import stages
from encodery.train.loop import Loop
from encodery.train.stages import StagedTraining, cycle, grow

OVERRIDES: dict[str, Any] = {
    "model": {"max_length": 32},
    "feed": {"max_length": 32},
    "train": {
        "budget": "9steps",
        "batch_tokens": 256,
        "precision": "fp32",
        "threads": 1,
        "evals": 0,
        "eval_tokens": 100,
        "lr_schedule": "1",
    },
}
SMALL = "[model]\nwidth = 8\ndepth = 1\nheads = 2\nintermediate_size = 8\n[optim]\nlr = 0.01\n"
LARGE = "[model]\nwidth = 16\ndepth = 2\nheads = 4\nintermediate_size = 24\n[optim]\nlr = 0.005\n"


@pytest.fixture
def opened(store: Path) -> TokenStore:
    return TokenStore.open(store)


@pytest.fixture
def recipes(tmp_path: Path) -> tuple[str, str]:
    for name, text in (("small", SMALL), ("large", LARGE)):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return str(tmp_path / "large.toml"), str(tmp_path / "small.toml")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder).model.state_dict())


def test_a_grown_run_starts_from_the_weights_of_the_small_model(
    opened: TokenStore, recipes: tuple[str, str], tmp_path: Path
) -> None:
    large, small = recipes
    staged = grow(StagedTraining(large, OVERRIDES, opened, tmp_path / "out"), small)
    assert staged.finished
    assert staged.folder == tmp_path / "out/large"
    tables = {name: json.loads((tmp_path / "out" / name / "recipe.json").read_text()) for name in ("small", "large")}
    assert [tables[name]["settings"]["train"]["budget"] for name in ("small", "large")] == ["3steps", "6steps"]
    assert [tables[name]["settings"]["optim"]["lr"] for name in ("small", "large")] == [0.01, 0.005]
    assert tables["large"]["settings"]["init_from"] == str(tmp_path / "out/grown")
    grown, model = load_model(tmp_path / "out/grown"), load_model(tmp_path / "out/large").model
    assert model.settings.shape == grown.model.settings.shape
    assert (model.settings.width, model.settings.depth, model.settings.shape.intermediate_size) == (16, 2, 24)
    assert grown.settings["surgery"]["method"] == "fpi"
    embeddings = "encoder.embeddings.word.weight"
    assert torch.equal(weights(tmp_path / "out/grown")[embeddings][:, :8], weights(tmp_path / "out/small")[embeddings])
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    again = grow(StagedTraining(large, OVERRIDES, opened, tmp_path / "out"), small)
    assert again.metrics == staged.metrics
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}


def test_interrupted_stages_are_resumed_bit_for_bit(
    opened: TokenStore,
    recipes: tuple[str, str],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    large, small = recipes
    overrides = copy.deepcopy(OVERRIDES)
    overrides["train"] |= {"checkpoint_every": "1steps"}
    grow(StagedTraining(large, overrides, opened, tmp_path / "whole"), small)
    for stop in (1, 3):
        with power_cut(stop):
            grow(StagedTraining(large, overrides, opened, tmp_path / "interrupted"), small)
    assert grow(StagedTraining(large, overrides, opened, tmp_path / "interrupted"), small).finished
    for name in ("small", "large"):
        assert losses(tmp_path / "interrupted" / name) == losses(tmp_path / "whole" / name)
    ours, expected = (weights(tmp_path / name / "large") for name in ("interrupted", "whole"))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_cycle_mixes_the_weights_of_the_small_model_into_the_large_one(
    opened: TokenStore, recipes: tuple[str, str], tmp_path: Path
) -> None:
    overrides = copy.deepcopy(OVERRIDES)
    overrides["train"]["budget"] = "20steps"
    staged = cycle(
        StagedTraining(recipes[0], overrides, opened, tmp_path), large_first=0.2, small_fraction=0.5, mix=0.25
    )
    assert staged.finished
    tables = [json.loads((tmp_path / name / "recipe.json").read_text()) for name in ("first", "small", "large")]
    assert [table["settings"]["train"]["budget"] for table in tables] == ["4steps", "10steps", "6steps"]
    assert [table["settings"]["train"]["lr_schedule"] for table in tables] == ["0 -> 1 linear", "1", "1"]
    first, small, mixed = (weights(tmp_path / name) for name in ("first", "small", "grown"))
    assert load_model(tmp_path / "small").model.settings.shape.intermediate_size == 12
    embeddings = "encoder.embeddings.word.weight"
    expected = 0.75 * first[embeddings] + 0.25 * small[embeddings].repeat(1, 2)
    torch.testing.assert_close(mixed[embeddings], expected)
    qkv = "encoder.blocks.{}.attention.qkv.weight"
    halves = small[qkv.format(0)].view(3, 8, 8).repeat(1, 2, 2).reshape(48, 16) / 2
    for layer in (0, 1):
        expected = 0.75 * first[qkv.format(layer)] + 0.25 * halves
        torch.testing.assert_close(mixed[qkv.format(layer)], expected)


def test_a_cycle_interrupted_in_each_phase_ends_as_an_uninterrupted_one(
    opened: TokenStore,
    recipes: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: Callable[[Path], dict[int, float]],
) -> None:
    overrides = copy.deepcopy(OVERRIDES)
    overrides["train"] |= {"budget": "20steps", "checkpoint_every": "1steps"}
    fractions = {"large_first": 0.2, "small_fraction": 0.5, "mix": 0.25}
    cycle(StagedTraining(recipes[0], overrides, opened, tmp_path / "whole"), **fractions)
    step, finish, once = Loop._step, Loop._finish, stages._once
    interrupted = tmp_path / "interrupted"

    def killed(phase: str, at: int | str) -> None:
        """Start or continue, up to a step of a phase, the end of its last step, or the making of a model."""

        def stepping(self: Loop, elapsed: float) -> None:
            if (self.folder.name, self.clock.step) == (phase, at):
                raise KeyError("power cut")
            step(self, elapsed)

        def finishing(self: Loop) -> dict[str, Any]:
            if (self.folder.name, "end") == (phase, at):
                raise KeyError("power cut")
            return finish(self)

        def making(folder: Path, make: Callable[[], None]) -> Path:
            if (folder.name, "made") == (phase, at):
                raise KeyError("power cut")
            return once(folder, make)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_step", stepping)
            patch.setattr(Loop, "_finish", finishing)
            patch.setattr(stages, "_once", making)
            with pytest.raises(KeyError):
                cycle(StagedTraining(recipes[0], overrides, opened, interrupted), **fractions)

    for phase, at in (
        *(("first", 2), ("first", "end"), ("coalesced", "made"), ("small", 1), ("small", 7), ("small", "end")),
        *(("grown", "made"), ("large", 3), ("large", "end")),
    ):
        killed(phase, at)
    assert cycle(StagedTraining(recipes[0], overrides, opened, interrupted), **fractions).finished
    for name in ("first", "small", "large"):
        assert losses(interrupted / name) == losses(tmp_path / "whole" / name), name
    for name in ("coalesced", "grown", "large"):
        ours, expected = weights(interrupted / name), weights(tmp_path / "whole" / name)
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[key], expected[key]) for key in expected), name


def test_models_that_differ_in_more_than_sizes_and_wrong_fractions_are_refused(
    opened: TokenStore, recipes: tuple[str, str], tmp_path: Path
) -> None:
    large, small = recipes
    other = tmp_path / "other.toml"
    other.write_text(SMALL + '[model.positions]\nis = "rotary"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"model\.positions is"):
        grow(StagedTraining(large, OVERRIDES, opened, tmp_path / "no"), str(other))
    other.write_text(SMALL.replace("heads = 2", "heads = 1"), encoding="utf-8")
    with pytest.raises(SettingsError, match="have size"):
        grow(StagedTraining(large, OVERRIDES, opened, tmp_path / "no"), str(other))
    with pytest.raises(SettingsError, match="small_fraction"):
        grow(StagedTraining(large, OVERRIDES, opened, tmp_path / "no"), small, small_fraction=1.0)
    with pytest.raises(SettingsError, match="large_first"):
        cycle(StagedTraining(large, OVERRIDES, opened, tmp_path / "no"), large_first=0.6, small_fraction=0.5)
    assert not (tmp_path / "no").exists()


def test_the_command(store: Path, recipes: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, small = recipes
    settings = [f"train.{key}={value}" for key, value in OVERRIDES["train"].items() if key != "budget"]
    settings += ["model.max_length=32", "feed.max_length=32", "--budget", "6steps"]
    before = torch.get_num_threads()
    try:
        arguments = [
            "pretrain",
            "grow",
            str(store),
            "--recipe",
            large,
            "--small",
            small,
            "surgery.method=aki",
            "surgery.layers=repeat",
        ]
        assert run([*arguments, *settings, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
        assert "grown, held-out loss" in capsys.readouterr().out
        assert load_model(tmp_path / "out/grown").settings["surgery"]["layers"] == "repeat"
        assert run([*arguments, *settings, "train.seed=1", "--out", str(tmp_path / "out")]) == 2
        assert "other settings of 'train'" in capsys.readouterr().err.replace("\n", " ")
        assert (
            run(
                [
                    "pretrain",
                    "grow",
                    str(store),
                    "--recipe",
                    large,
                    "--cycle",
                    *settings,
                    "--out",
                    str(tmp_path / "cycle"),
                ]
            )
            == 0
        )
        assert run(["pretrain", "grow", str(store), "--recipe", large, "--out", str(tmp_path / "no")]) == 2
        assert "--small RECIPE" in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)
