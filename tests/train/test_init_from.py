"""Continued pre-training: a run starts from a trained model, can be resumed, and trains the parts it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import CheckpointError, SettingsError
from encodery.base.settings import parse_overrides
from encodery.cli.__main__ import run
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.tokens.store import TokenStore
from encodery.train.data_init.random import RandomInit
from encodery.train.distributed import DistributedContext
from encodery.train.launch import resume, start
from encodery.train.loop import Loop
from encodery.train.pretrain import PretrainJob, pretrain_recipe
from encodery.train.pretrain_settings import PretrainSettings, read_settings

Losses = Callable[[Path], dict[int, float]]
QUICK = ["train.budget=12steps", "train.batch_tokens=256", "train.micro_batch_tokens=256", "train.precision=fp32"]
QUICK += ["train.threads=1", "train.eval_tokens=200", "train.evals=3", "train.checkpoint_every=4steps"]


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    small = ["model.width=16", "model.depth=2", "model.heads=2", "model.intermediate_size=32", "model.max_length=32"]
    over = parse_overrides([*small, "feed.max_length=32", "optim.lr=0.01", *QUICK, "train.budget=30steps"])
    opened = TokenStore.open(store)
    start(pretrain_recipe(read_settings("nano", over, opened), opened, "nano"), folder)
    return folder


def recipe(store: Path, trained: Path, *over: str) -> dict[str, Any]:
    opened = TokenStore.open(store)
    settings = read_settings("nano", parse_overrides([f"init_from={trained}", *QUICK, *over]), opened)
    return pretrain_recipe(settings, opened, "nano")


def job(table: dict[str, Any]) -> PretrainJob:
    return PretrainJob.from_recipe(table, DistributedContext(), torch.device("cpu"))


def test_before_the_first_step_the_weights_are_those_of_the_source(store: Path, trained: Path) -> None:
    made, source = job(recipe(store, trained)), load_model(trained)
    assert made.settings.model == source.model.settings
    assert made.settings.feed.max_length == 32, "must be at most the length of the model"
    for name, tensor in source.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], tensor), name
    other = PretrainJob.from_recipe(recipe(store, trained, "train.seed=5"), DistributedContext(), torch.device("cpu"))
    nothing = {"init_from": None, "data_init": RandomInit()}
    fresh = job(pretrain_recipe(made.settings.__class__(**{**vars(made.settings), **nothing}), made.store))
    assert made.score(400)["loss"] == other.score(400)["loss"] < fresh.score(400)["loss"] - 0.1


def test_training_continues_and_the_source_is_recorded(store: Path, trained: Path, tmp_path: Path) -> None:
    before = job(recipe(store, trained)).score(800)["loss"]
    result = start(recipe(store, trained, "train.budget=40steps", "optim.lr=0.01"), tmp_path / "run")
    assert result.metrics["heldout_loss"] < before
    results = load_model(tmp_path / "run")
    assert results.artifact is not None
    assert results.artifact.manifest.parents["model"]["path"] == str((trained / "model").resolve())
    assert results.settings["recipe"]["settings"]["init_from"] == str(trained.resolve())


@pytest.mark.parametrize("adapt", [(), ("adapt=lora", "adapt.rank=2"), ("adapt=adapters", "adapt.size=4")])
def test_resumed_equals_uninterrupted(
    adapt: tuple[str, ...], store: Path, trained: Path, tmp_path: Path, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = recipe(store, trained, *adapt)
    start(table, tmp_path / "whole")
    before = Loop._step

    def stop(self: Loop, elapsed: float) -> None:
        if self.clock.step == 7:
            raise KeyboardInterrupt
        before(self, elapsed)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            start(table, tmp_path / "parted")
    assert resume(tmp_path / "parted").finished
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    ours, theirs = (load_model(tmp_path / name).model.state_dict() for name in ("parted", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_the_adaptation_is_trained_and_the_saved_model_is_merged(
    store: Path, trained: Path, tmp_path: Path
) -> None:
    source = load_model(trained).model
    result = start(recipe(store, trained, "adapt=lora", "adapt.rank=2", "optim.lr=0.03"), tmp_path / "lora")
    results = load_model(tmp_path / "lora").model
    assert results.settings == source.settings
    changed = {name for name, p in results.state_dict().items() if not torch.equal(p, source.state_dict()[name])}
    assert changed == {f"encoder.blocks.{layer}.attention.qkv.weight" for layer in (0, 1)}
    again = job(recipe(store, tmp_path / "lora")).score(800)["loss"]
    assert again == pytest.approx(result.metrics["heldout_loss"], abs=1e-5)
    start(recipe(store, trained, "adapt=prompt", "adapt.num_tokens=3"), tmp_path / "prompt")
    assert [type(i).__name__ for i in load_model(tmp_path / "prompt").model.settings.extensions] == ["SoftPrompt"]


def test_a_run_is_not_resumed_if_the_source_model_changed(
    store: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_model(trained)
    save_model(tmp_path / "source", source.model, source.tokenizer_path)

    def stop(self: Loop, metrics: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_finish", stop)
        with pytest.raises((KeyboardInterrupt, TypeError)):
            start(recipe(store, tmp_path / "source"), tmp_path / "run")
    save_model(tmp_path / "source", build_model(source.model.settings, 9), source.tokenizer_path, overwrite=True)
    with pytest.raises(CheckpointError, match="init_from"):
        resume(tmp_path / "run")


def test_the_source_model_replaces_data_dependent_initialisation(store: Path, trained: Path) -> None:
    identity = job(recipe(store, trained)).identity()
    assert "data_init" not in identity
    assert len(identity["init_from"]) == 32, "the digest of its weights"


def test_other_shapes_and_vocabularies_are_refused_by_name(store: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"encoder\.embeddings\.word.weight.*\[192, 16\].*\[192, 32\]"):
        job(recipe(store, trained, "model.width=32"))
    with pytest.raises(SettingsError, match=r"has no tensor 'encoder\.blocks\.2"):
        job(recipe(store, trained, "model.depth=3"))
    source = load_model(trained)
    spec = source.tokenizer.backend
    spec.add_tokens(["another"])
    source.tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "other", source.model, tmp_path / "tokenizer")
    with pytest.raises(SettingsError, match="encodery tokens encode"):
        job(recipe(store, tmp_path / "other"))


def test_a_missing_head_is_newly_initialised(store: Path, trained: Path, tmp_path: Path) -> None:
    source = load_model(trained)
    settings = {**vars(source.model.settings), "head": None}
    bare = build_model(type(source.model.settings)(**settings))
    bare.load_state_dict({k: v for k, v in source.model.state_dict().items() if not k.startswith("heads.")})
    save_model(tmp_path / "bare", bare, source.tokenizer_path)
    made = job(recipe(store, tmp_path / "bare"))
    assert torch.equal(made.model.encoder.token_embeddings, source.model.encoder.token_embeddings)
    assert "mlm" in made.model.heads
    part = job(recipe(store, tmp_path / "bare", "adapt=lora")).model
    assert all(p.requires_grad for p in part.heads.parameters()), "a new head must be trained"
    assert not part.encoder.token_embeddings.requires_grad
    whole = job(recipe(store, trained, "adapt=lora")).model
    assert not any(p.requires_grad for p in whole.heads.parameters())


def test_embedding_settings_of_the_source_model_are_kept(store: Path, trained: Path, tmp_path: Path) -> None:
    source = load_model(trained)
    dense = {"pooling": "cls", "prompts": {"query": "find: "}}
    save_model(tmp_path / "source", source.model, source.tokenizer_path, settings={"dense": dense})
    job(recipe(store, tmp_path / "source")).save(tmp_path / "model", {})
    assert load_model(tmp_path / "model").settings["dense"] == dense


def test_settings_survive_the_recipe_and_the_command_runs(
    store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_settings("nano", parse_overrides([f"init_from={trained}", "adapt=bitfit"]), TokenStore.open(store))
    from encodery.base.settings import decode, encode

    assert decode(PretrainSettings, encode(settings)) == settings
    command = [
        "pretrain",
        str(store),
        "--recipe",
        "nano",
        f"init_from={trained}",
        "adapt.is=lora",
        "adapt.rank=2",
        *QUICK,
    ]
    before = torch.get_num_threads()
    try:
        assert run([*command, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    finally:
        torch.set_num_threads(before)
    assert "in 12 steps" in capsys.readouterr().out
