"""Compression of finished runs: they are repeated with a teacher, pruned weights and 8-bit arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, InputError, SettingsError, UnknownName
from encodery.base.run_log import read_log
from encodery.base.settings import decode
from encodery.checks.execution import example_store
from encodery.cli.__main__ import run as cli
from encodery.compress.distill.logits import LogitDistillation
from encodery.compress.job import COMPARED, CompressJob
from encodery.compress.settings import compress_recipe
from encodery.compress.targets import linear_layers
from encodery.embed.planning import plan_training
from encodery.encoders.dense import DenseEncoder
from encodery.finetune.planning import plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.model.load import load_model
from encodery.model.network import Model
from encodery.objectives import normalised_loss, sum_counts
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.tokens.tokenizer import Tokenizer
from encodery.train import checkpoint
from encodery.train.branch import branch
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job
from encodery.train.launch import resume, start
from encodery.train.loop import Loop
from encodery.train.pretrain import pretrain_recipe
from encodery.train.pretrain_settings import PretrainSettings

CPU, SINGLE = torch.device("cpu"), DistributedContext()
TRAIN: dict[str, Any] = {"precision": "fp32", "threads": 1, "evals": 2, "eval_tokens": 200, "eval_time_fraction": 0.9}
STEPS = {"budget": "12steps", "batch_tokens": 256, "micro_batch_tokens": 128, "checkpoint_every": "4steps"}
SIZES: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "intermediate_size": 32, "max_length": 32, "dropout": 0.1}
DISTILL = {"distill": [{"is": "logits", "temperature": 3.0}, {"is": "hidden"}]}
PRUNE = {"prune": {"is": "magnitude", "sparsity": 0.6, "every": 2}}
ALL = {**DISTILL, **PRUNE, "quantize": {"is": "fake"}, "hooks": [{"is": "ema", "decay": 0.8}]}


class Stopped(Exception):
    """Raised by a test in the middle of a run."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pre-training."""
    table = {
        "model": SIZES,
        "feed": {"max_length": 32},
        "optim": {"is": "adamw", "lr": 0.01},
        "train": {
            **TRAIN,
            "budget": "12steps",
            "batch_tokens": 256,
            "micro_batch_tokens": 128,
            "checkpoint_every": "4steps",
        },
    }
    store = example_store()
    settings = decode(PretrainSettings, table).with_vocab_size(store.special_tokens.vocab_size)
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    start(pretrain_recipe(settings, store), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    words = ["red", "green", "blue", "one", "two", "six", "cat", "dog", "sun"]
    return small_model(tmp_path_factory.mktemp("encoder"), word_tokenizer(words), max_length=24, type_vocab_size=2)


@pytest.fixture(scope="module")
def finetuned(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to name the colour in a text."""
    folder = tmp_path_factory.mktemp("finetuned")
    draw = np.random.default_rng(0)
    for split, count in (("train", 90), ("dev", 45)):
        rows = []
        for row in range(count):
            words = draw.choice(["one", "two", "six", "cat", "dog", "sun"], 4).tolist()
            colour = ["red", "green", "blue"][row % 3]
            rows.append(json.dumps({"text": " ".join([*words[:2], colour, *words[2:]]), "label": colour}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    over = {"epochs": 10, "optim": {"lr": 5e-3}, "task": {"head_lr_scale": 1.0}, "train": TRAIN}
    start(plan_finetuning("classify", folder, encoder, over).recipe, folder / "run")
    return folder / "run"


def job_of(run: Path, over: dict[str, Any], model: str | None = None) -> CompressJob:
    return CompressJob.from_recipe(compress_recipe(run, over, model), SINGLE, CPU)


def blocks_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, (_, _, layer) in linear_layers(model.encoder).items()}


def test_the_saved_model_is_an_ordinary_one_with_zeros_on_the_grid_of_8_bits(pretrained: Path, tmp_path: Path) -> None:
    result = start(compress_recipe(pretrained, ALL), tmp_path / "run")
    assert result.finished
    assert result.metrics["sparsity"] == pytest.approx(0.6, abs=0.01)
    before, after = load_model(pretrained), load_model(tmp_path / "run")
    assert after.model.settings == before.model.settings
    assert after.settings["recipe"]["job"] == "train.pretrain"
    for name, weight in blocks_of(after.model).items():
        assert (weight == 0).float().mean() >= 0.59, name
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
        steps = weight / scale
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3, msg=name)
    losses = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert {"mlm", "distill_logits", "distill_hidden"} <= losses[-1].keys()
    assert losses[-1]["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_the_engine_of_8_bits_computes_what_was_trained(pretrained: Path) -> None:
    """`packed_int8` rounds as the layers do that are trained; the same weights in fp32 are farther from it."""
    job = job_of(pretrained, {"quantize": {"is": "fake"}})
    job.module.eval()
    batch = next(iter(job.batches(0, 0.5, 256, None).micro_batches)).batch
    plain = load_model(pretrained).model
    engine = PackedInt8().build(plain)
    served = torch.from_numpy(engine.run(batch.ids.numpy(), batch.cu_seqlens.numpy()))
    with torch.inference_mode():
        rounded, unrounded = job.model(batch).hidden, plain(batch).hidden
    assert (served - rounded).norm() < 0.3 * (served - unrounded).norm()


def test_a_resumed_compression_equals_an_uninterrupted_one(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = compress_recipe(pretrained, ALL)
    start(recipe, tmp_path / "whole")
    step = Loop._step
    with monkeypatch.context() as patch:

        def stop(self: Loop, elapsed: float) -> None:
            if self.clock.step == 7:
                raise Stopped
            step(self, elapsed)

        patch.setattr(Loop, "_step", stop)
        with pytest.raises(Stopped):
            start(recipe, tmp_path / "parted")
    resume(tmp_path / "parted")
    whole, parted = (checkpoint.read(checkpoint.latest(tmp_path / name, print)) for name in ("whole", "parted"))
    assert whole.tensors.keys() == parted.tensors.keys()
    for group, tensors in whole.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parted.tensors[group][name]), f"{group}: {name}"
    models = [load_model(tmp_path / name).model.state_dict() for name in ("whole", "parted")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_branch_continues_with_another_budget(pretrained: Path, tmp_path: Path) -> None:
    start(compress_recipe(pretrained, PRUNE), tmp_path / "run")
    result = branch(tmp_path / "run", tmp_path / "longer", budget="16steps")
    assert result.step == 16
    assert result.metrics["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_the_teacher_is_in_evaluation_mode_and_does_not_learn(pretrained: Path) -> None:
    job = job_of(pretrained, DISTILL)
    assert job.teacher is not None
    job.module.train()
    batch = next(iter(job.batches(0, 0.5, 256, None).micro_batches)).batch
    before = {name: tensor.clone() for name, tensor in job.teacher.module.state_dict().items()}
    runs = [job.teacher.terms_and_outputs(batch)[1].logits for _ in range(2)]
    assert torch.equal(*runs), "dropout of the teacher is on"
    terms = job.terms(batch)
    normalised_loss(terms, sum_counts([job.counts(batch)])).backward()
    assert all(p.grad is None and not p.requires_grad for p in job.teacher.module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in job.teacher.module.state_dict().items())
    trained = {name for name, p in job.module.named_parameters() if p.grad is not None}
    assert any("encoder" in name for name in trained)
    assert not {id(p) for p in job.teacher.module.parameters()} & {id(p) for p in job.module.parameters()}


def test_the_memory_of_a_teacher_and_of_the_student_is_counted(
    pretrained: Path, tmp_path: Path, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> None:
    alone, taught = (
        CompressJob.memory_estimate(compress_recipe(pretrained, over)) for over in (PRUNE, {**PRUNE, **DISTILL})
    )
    assert alone is not None
    assert taught is not None
    saved = load_model(pretrained).model
    predictions = 4 * round(128 * 0.3) * saved.settings.vocab_size  # the micro-batch has 128 tokens
    weights = 4 * sum(p.numel() for p in saved.parameters())
    more = taught.memory - alone.memory - COMPARED * predictions
    assert weights < more < 2.5 * weights, "the files hold golden outputs too"
    assert taught.activations - alone.activations == COMPARED * predictions
    tokenizer = load_model(pretrained).tokenizer
    small = small_model(tmp_path / "small", tokenizer, width=8, depth=1, heads=2, max_length=32)
    student = CompressJob.memory_estimate(compress_recipe(pretrained, {**PRUNE, **DISTILL}, str(small)))
    assert student is not None
    assert student.memory < taught.memory, "the model that is trained is the student"


def test_counts_are_those_of_the_terms(pretrained: Path, finetuned: Path) -> None:
    for run in (pretrained, finetuned):
        job = job_of(run, DISTILL)
        batch = next(iter(job.batches(0, 0.5, 256, None).micro_batches)).batch
        counts, terms = job.counts(batch), job.terms(batch)
        for name in ("distill_logits", "distill_hidden"):
            assert counts[name] == terms[name].count
        assert len(job.job.terms_and_outputs(batch)[1].logits) == counts["distill_logits"]


def test_a_student_that_equals_its_teacher_has_no_soft_loss(finetuned: Path) -> None:
    job = job_of(finetuned, {**DISTILL, "task_weight": 0.25, "dropout": 0.0})
    job.module.eval()
    batch = next(iter(job.batches(0, 0.5, 256, None).micro_batches)).batch
    with torch.no_grad():
        terms = job.terms(batch)
    assert float(terms["distill_logits"].total) == pytest.approx(0, abs=1e-4)
    assert float(terms["distill_hidden"].total) == pytest.approx(0, abs=1e-4)
    assert terms["classes"].weight == 0.25
    assert terms["accuracy"].weight == 0.0


def test_a_fine_tuned_model_is_the_start_with_its_head(finetuned: Path) -> None:
    job = job_of(finetuned, PRUNE)
    best = json.loads((finetuned / "metrics.json").read_text())["dev_f1"]
    assert best > 0.9
    assert job.score(10_000)["dev_f1"] == pytest.approx(best)
    fresh = job_of(finetuned, PRUNE, str(load_model(finetuned).path))
    states = [one.job.module.state_dict() for one in (job, fresh)]
    changed = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert any("weight" in name for name in changed), "with --model the head is a new one"
    assert not any(".blocks." in name or ".embeddings." in name for name in changed)


def test_a_smaller_student_learns_from_its_teacher_alone(
    finetuned: Path, tmp_path: Path, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> None:
    tokenizer = load_model(finetuned).tokenizer
    small = small_model(tmp_path / "small", tokenizer, width=16, depth=1, max_length=24, type_vocab_size=2)
    over = {"distill": [{"is": "logits"}], "task_weight": 0.0, "train": {"budget": "150steps"}, "optim": {"lr": 2e-2}}
    result = start(compress_recipe(finetuned, over, str(small)), tmp_path / "run")
    assert result.metrics["dev_accuracy"] > 0.9
    answers = Predictor.from_model(load_model(tmp_path / "run"), "cpu").predict(["one two green cat sun"]).answers
    assert answers[0]["prediction"] == "green"


def test_low_rank_factors_recover_with_a_teacher(pretrained: Path, tmp_path: Path) -> None:
    """The student has the teacher's feed-forward matrices as factors, which training changes and the model keeps."""
    assert cli(["model", "edit", str(pretrained), "--surgery", "low_rank", "rank=4", "--out", str(tmp_path / "s")]) == 0
    start(compress_recipe(pretrained, DISTILL, str(tmp_path / "s")), tmp_path / "run")
    before, after = (load_model(tmp_path / name).model for name in ("s", "run"))
    assert after.settings == before.settings
    factors = [name for name, _ in after.named_parameters() if name.endswith("ffn.up.first.weight")]
    assert len(factors) == 2
    assert not any(torch.equal(after.state_dict()[name], before.state_dict()[name]) for name in factors)


def test_the_best_weights_are_not_from_before_the_final_sparsity(finetuned: Path, tmp_path: Path) -> None:
    """The model is trained from the start, so that the first score could be the best one."""
    over = {"prune": {"is": "magnitude", "sparsity": 0.3, "every": 1, "begin": 0.2, "end": 0.6}, "train": {"evals": 6}}
    start(compress_recipe(finetuned, over), tmp_path / "run")
    for name, weight in blocks_of(load_model(tmp_path / "run").model).items():
        assert (weight == 0).float().mean() == pytest.approx(0.3, abs=0.01), name


def test_compressions_follow_each_other_on_the_command_line(finetuned: Path, tmp_path: Path) -> None:
    pruned, rounded = str(tmp_path / "pruned"), str(tmp_path / "rounded")
    teacher = ["distill=logits", "distill.temperature=3"]
    command = ["compress", str(finetuned), "--out", pruned, "prune.is=magnitude", *teacher]
    assert cli([*command, "--budget", "8steps"]) == 0
    settings = json.loads((tmp_path / "pruned" / "recipe.json").read_text())["settings"]
    assert settings["distill"] == [{"is": "logits", "weight": 1.0, "temperature": 3.0}]
    assert settings["train"]["budget"] == "8steps"
    assert cli(["compress", pruned, "--out", rounded, "quantize.is=fake", "--budget", "2steps"]) == 0
    recipe = json.loads((tmp_path / "rounded" / "recipe.json").read_text())
    assert recipe["settings"]["wrapped"]["job"] == "finetune.job"
    assert cli(["predict", "--model", rounded, "--text", "one red"]) in (0, 2)


@pytest.mark.parametrize(
    ("objective", "model"),
    [("masked_autoencoder", {}), ("replaced_tokens", {"head": None, "extra_heads": ["replaced_tokens"]})],
)
def test_a_teacher_needs_a_head_that_is_saved(objective: str, model: dict[str, Any], tmp_path: Path) -> None:
    """Otherwise the teacher would have the random head with which its run began."""
    store = example_store()
    table = {
        "model": {**SIZES, **model},
        "objective": objective,
        "feed": {"max_length": 32},
        "train": {**TRAIN, **STEPS},
    }
    settings = decode(PretrainSettings, table).with_vocab_size(store.special_tokens.vocab_size)
    start(pretrain_recipe(settings, store).with_train(budget="2steps"), tmp_path / "run")
    with pytest.raises(SettingsError, match=f"'{objective}': predicts no masked tokens with a head that is saved"):
        start(compress_recipe(tmp_path / "run", DISTILL), tmp_path / "out")
    assert start(compress_recipe(tmp_path / "run", PRUNE), tmp_path / "pruned").finished


def test_embedding_training_is_compressed_too(encoder: Path, tmp_path: Path) -> None:
    """Its outputs are no predictions, so that a teacher is refused; what acts on weights works with any job."""
    rows = [{"anchor": f"one {colour}", "positive": f"{colour} cat"} for colour in ("red", "green", "blue")] * 4
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    over = {"batch": 4, "train": {"budget": "4steps", "precision": "fp32", "threads": 1}}
    start(plan_training(tmp_path, encoder, None, over).training.recipe, tmp_path / "run")
    start(compress_recipe(tmp_path / "run", {**PRUNE, "quantize": {"is": "fake"}}), tmp_path / "out")
    for weight in blocks_of(load_model(tmp_path / "out").model).values():
        assert (weight == 0).float().mean() == pytest.approx(0.6, abs=0.02)
    assert DenseEncoder.from_loaded(load_model(tmp_path / "out"), CPU).encode(["one red"]).vectors.shape == (1, 32)
    with pytest.raises(SettingsError, match=r"'embed.job' gives no predictions that a teacher"):
        start(compress_recipe(tmp_path / "run", DISTILL), tmp_path / "distilled")


def test_wrong_settings_are_refused(pretrained: Path, finetuned: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Nothing is compressed"):
        compress_recipe(pretrained, {})
    with pytest.raises(UnknownName, match="Did you mean 'magnitude'"):
        compress_recipe(pretrained, {"prune": {"is": "magnitud"}})
    with pytest.raises(SettingsError, match="no setting 'taks'"):
        compress_recipe(pretrained, {**PRUNE, "taks": 1})
    with pytest.raises(InputError, match="no run folder"):
        compress_recipe(encoder, PRUNE)
    other = job_of(finetuned, DISTILL)
    assert isinstance(other.settings.distill[0], LogitDistillation)
    with pytest.raises(SettingsError, match="is adapted or frozen"):
        job_of(finetuned, {**PRUNE, "adapt": {"is": "lora"}})
    with pytest.raises(ArtifactError, match="other labels"):
        wrapped: Job = other.job
        other.job.metadata = other.job.metadata.__class__(labels=("a", "b"), counts=(1, 1))
        wrapped.load_result(finetuned / "model")
