"""Recipes become settings, with errors that name the fault; the commands start, stop and resume runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError, UnknownName
from encodery.base.recipes import recipe_files
from encodery.base.settings import decode, encode, parse_overrides
from encodery.cli.__main__ import run
from encodery.model import count
from encodery.tokens.store import TokenStore
from encodery.train.distributed import DistributedContext
from encodery.train.pretrain import PretrainJob
from encodery.train.pretrain_settings import PretrainSettings, read_settings
from encodery.train.recipe import Recipe

Table = Callable[..., Recipe[Any]]
RECIPES = list(recipe_files("pretrain"))


@pytest.fixture
def opened(store: Path) -> TokenStore:
    return TokenStore.open(store)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_decodes_and_survives_json(name: str, opened: TokenStore) -> None:
    settings = read_settings(name, {}, opened)
    assert decode(PretrainSettings, encode(settings)) == settings
    assert settings.model.vocab_size == opened.special_tokens.vocab_size
    assert count.num_parameters(settings.model) > 0
    assert settings.memory_estimate().memory > count.num_parameters(settings.model) * 16


def test_the_sizes_of_our_recipes_rise(opened: TokenStore) -> None:
    sizes = [
        count.num_parameters(read_settings(name, {}, opened).model, embeddings=False)
        for name in ("nano", "tiny", "mini", "small", "base", "large")
    ]
    assert sizes == sorted(set(sizes))


def test_one_field_of_a_default_part_can_be_set(opened: TokenStore) -> None:
    arguments = parse_overrides(["model.depth=3", "objective.corruption.rate=0.2", "train.batch_tokens=1024"])
    settings = read_settings("nano", arguments, opened)
    assert settings.model.depth == 3
    assert settings.feed.batch_tokens == 1024
    assert settings.objective.corruption.rate(0.5) == 0.2  # type: ignore[attr-defined]
    arguments = parse_overrides(["feed.max_length=8000", "model.max_length=8000", "train.batch_tokens=8192"])
    assert read_settings("nano", arguments, opened).feed.max_length == 8000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["feed.batch_tokens=100"], "train.batch_tokens"),
        (["model.dpeth=3"], "Did you mean 'depth'"),
        (["feed.max_length=2000"], "model.max_length"),
        (["train.seq_len_schedule=8 -> 500 linear"], "feed.max_length"),
        (["train.precision=bf61"], "Did you mean 'bf16'"),
        (["feed.max_length=8000", "model.max_length=8000"], "train.batch_tokens"),
        (["train.budget=7x"], "unit"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments: list[str], message: str, opened: TokenStore) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings("tiny", parse_overrides(arguments), opened)


def test_unknown_recipes_and_parts_name_the_nearest(opened: TokenStore) -> None:
    with pytest.raises(UnknownName, match="'tiny'"):
        read_settings("tinny", {}, opened)
    with pytest.raises(UnknownName, match="'adamw'"):
        read_settings("tiny", parse_overrides(["optim=adam_w"]), opened)


def test_a_vocabulary_too_small_is_refused(opened: TokenStore, table: Table) -> None:
    settings = read_settings("nano", parse_overrides(["model.vocab_size=64"]), opened)
    with pytest.raises(SettingsError, match=r"raise model\.vocab_size"):
        PretrainJob(settings, opened, DistributedContext(), torch.device("cpu"))


def test_batches_that_cannot_be_divided_are_refused(table: Table) -> None:
    job = PretrainJob.from_recipe(
        table(train={"batch_tokens": 64, "micro_batch_tokens": 16}), DistributedContext(), torch.device("cpu")
    )
    with pytest.raises(SettingsError, match="micro_batch_tokens"):
        job.batches(0, 0.0, 64, None)


def test_masks_depend_on_step_and_micro_batch_only(table: Table) -> None:
    jobs = [PretrainJob.from_recipe(table(), DistributedContext(), torch.device("cpu")) for _ in range(2)]
    jobs[0].batches(0, 0.0, 256, None)
    first = [job.batches(5, 0.0, 256, None).micro_batches[0].batch for job in jobs]
    assert not torch.equal(first[0].ids, first[1].ids), "the loaders are at different positions"
    jobs[1].load_state(PretrainJob.from_recipe(table(), DistributedContext(), torch.device("cpu")).state())
    jobs[0].load_state(jobs[1].state())
    again = [job.batches(5, 0.0, 256, None).micro_batches[0].batch for job in jobs]
    assert torch.equal(again[0].ids, again[1].ids)


def test_the_commands_from_start_to_finish(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [
        "model.width=16",
        "model.depth=1",
        "model.intermediate_size=16",
        "train.batch_tokens=512",
        "train.precision=fp32",
    ]
    common = ["train.eval_tokens=500", "train.threads=1", "train.evals=2"]
    out = tmp_path / "run"
    wsd = ["train.lr_schedule=wsd(warmup=10%, decay=20%)"]
    before = torch.get_num_threads()
    try:
        code = run(
            [
                "pretrain",
                str(store),
                "--recipe",
                "nano",
                "--out",
                str(out),
                "--budget",
                "10steps",
                *small,
                *common,
                *wsd,
            ]
        )
        message = capsys.readouterr().out
        assert code == 0, message
        for part in ("M parameters", "tokens/s", "bits per byte", "in 10 steps"):
            assert part in message
        assert run(["pretrain", str(store), "--recipe", "nano", "--out", str(out), *small]) == 2
        assert "encodery resume" in capsys.readouterr().err
        assert run(["resume", str(out)]) == 2
        assert "finished" in capsys.readouterr().err
        assert run(["resume", str(out), "--decay", "20%"]) == 2
        assert "--out" in capsys.readouterr().err
        assert run(["resume", str(out), "--out", str(tmp_path / "new"), "--decay", "50%"]) == 0
        assert "in 16 steps" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)
