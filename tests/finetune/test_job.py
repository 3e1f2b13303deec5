"""Runs of fine-tuning: it learns, the best weights are saved and loaded, a killed run resumes exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.base.settings import decode
from encodery.finetune import data as data_module
from encodery.finetune.job import FinetuneJob
from encodery.finetune.planning import FinetunePlan, plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.finetune.seeds import run_seeds, summarise
from encodery.finetune.settings import (
    complete_settings,
    default_embedding_lr_scale,
    default_epochs,
    default_lr,
    initial_settings,
)
from encodery.finetune.tasks.classify import TextClassification
from encodery.model.checkpoint import read_tensors
from encodery.model.load import LoadedModel, load_model
from encodery.model.settings import ModelSettings
from encodery.train import checkpoint
from encodery.train.launch import resume, start

SMALL: dict[str, Any] = {
    "epochs": 8,
    "dropout": 0.0,
    "optim": {"lr": 5e-3},
    "task": {"head_lr_scale": 1.0},
    "train": {"threads": 1, "precision": "fp32", "evals": 4},
}
RowsOf = Callable[..., dict[str, list[Any]]]
Planned = Callable[..., FinetunePlan]


def write_rows(file: Path, rows: dict[str, list[Any]]) -> None:
    lines = [json.dumps(dict(zip(rows, values, strict=True))) for values in zip(*rows.values(), strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path, rows: RowsOf) -> Callable[[str], Path]:
    """`data(task)`: a folder of train, dev and test rows."""

    def make(task: str) -> Path:
        folder = tmp_path / f"rows-{task}"
        folder.mkdir()
        for seed, (split, count) in enumerate((("train", 96), ("dev", 40), ("test", 40))):
            write_rows(folder / f"{split}.jsonl", rows(task, count, seed))
        return folder

    return make


@pytest.fixture
def planned(data: Callable[[str], Path], loaded: LoadedModel) -> Planned:
    """`planned(task, **over)`: a whole recipe of a small run."""

    def make(task: str, **over: Any) -> FinetunePlan:
        train = {**SMALL["train"], **over.pop("train", {})}
        return plan_finetuning(task, data(task), loaded.path, {**SMALL, **over, "train": train})

    return make


@pytest.mark.parametrize(("task", "figure"), [("classify", "accuracy"), ("tag", "f1"), ("multilabel", "f1")])
def test_a_run_learns_and_what_it_saved_says_the_same(
    task: str, figure: str, planned: Planned, tmp_path: Path, rows: RowsOf
) -> None:
    result = start(planned(task).recipe, tmp_path / "run")
    assert result.finished
    assert result.metrics[f"test_{figure}"] > 0.95
    assert result.metrics["samples_per_s"] > 0
    assert result.metrics["rows"] == 96
    details = json.loads((tmp_path / "run" / "details.json").read_text())
    assert details["test"]["metrics"][figure] == result.metrics[f"test_{figure}"]

    predictor = Predictor.from_model(load_model(tmp_path / "run"), "cpu")
    again = rows(task, 40, 2)
    answers = predictor.predict(again).answers
    assert predictor.task.metrics(answers, again, predictor.metadata)[figure] == pytest.approx(
        result.metrics[f"test_{figure}"]
    )
    if task == "classify":
        assert set(predictor.calibration) == {"temperature"}
        assert np.trace(details["test"]["confusion"]) == sum(
            a["prediction"] == b for a, b in zip(answers, again["label"], strict=True)
        )


def test_part_of_the_model_learns_under_an_adaptation(planned: Planned, tmp_path: Path, loaded: LoadedModel) -> None:
    made = planned("classify", adapt={"is": "top_layers", "layers": 1})
    result = start(made.recipe, tmp_path / "run")
    before, after = loaded.model.state_dict(), load_model(tmp_path / "run").model.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved
    assert all(name.startswith(("encoder.blocks.1", "encoder.final_norm")) for name in moved)
    assert result.metrics["test_accuracy"] > 0.4


def test_the_learning_rate_decreases_from_block_to_block(planned: Planned) -> None:
    made = planned("classify", layer_decay=0.5)
    job = FinetuneJob.from_recipe(made.recipe, _team(), torch.device("cpu"))
    assert job.settings.optim is not None
    optimizer = job.settings.optim.build(job.module, job.lr_scale)
    rates = {name: group["peak_lr"] / 5e-3 for group in optimizer.param_groups for name in group["param_names"]}
    shares = {
        "model.encoder.embeddings.": 0.25,
        "model.encoder.positions.": 0.25,
        "model.encoder.embedding_norm.": 0.25,
        "model.encoder.blocks.0.": 0.5,
        "model.encoder.blocks.1.": 1.0,
        "model.encoder.final_norm.": 1.0,
        "task.": 1.0,
    }
    for name, rate in rates.items():
        [share] = [share for start, share in shares.items() if name.startswith(start)]
        assert rate == pytest.approx(share), name
    assert {0.25, 0.5, 1.0} == {round(rate, 6) for rate in rates.values()}
    with pytest.raises(SettingsError, match=r"layer_decay = 1\.5"):
        initial_settings("classify", {"layer_decay": 1.5})


def test_token_embeddings_with_large_values_have_a_higher_learning_rate(planned: Planned, loaded: LoadedModel) -> None:
    assert [default_embedding_lr_scale(words, False) for words in (0.01, 0.02, 0.084, 3.0)] == [1.0, 1.0, 4.2, 10.0]
    assert default_embedding_lr_scale(0.084, True) == 1.0
    made = planned("classify", embedding_lr_scale=3.0, layer_decay=0.5)
    assert any("learning rate 0.005 (embeddings 3 times that)" in note for note in made.notes)
    job = FinetuneJob.from_recipe(made.recipe, _team(), torch.device("cpu"))
    assert job.lr_scale("model.encoder.embeddings.word.weight") == pytest.approx(0.75)
    assert job.lr_scale("model.encoder.embedding_norm.weight") == pytest.approx(0.25)
    assert job.lr_scale("task.head.out.weight") == 1
    for task, block, words in (("classify", "pre", 4.0), ("classify", "post", 1.0), ("tag", "pre", 1.0)):
        settings = complete_settings(
            initial_settings(task, {}), {}, [10] * 100, decode(ModelSettings, {"block": block}), 0.08
        )
        assert settings.embedding_lr_scale == words
    with pytest.raises(SettingsError, match="embedding_lr_scale = 0"):
        initial_settings("classify", {"embedding_lr_scale": 0})


def test_with_a_steep_decay_only_the_top_learns(planned: Planned, tmp_path: Path, loaded: LoadedModel) -> None:
    made = planned("classify", layer_decay=1e-6, epochs=1)
    start(made.recipe, tmp_path / "run")
    before, after = loaded.model.state_dict(), load_model(tmp_path / "run").model.state_dict()
    moved = {name: float((after[name] - tensor).abs().max()) for name, tensor in before.items()}
    assert max(size for name, size in moved.items() if name.startswith("encoder.blocks.1")) > 1e-3
    assert max(size for name, size in moved.items() if name.startswith("encoder.blocks.0")) < 1e-5


KILLED = """
import json, os, signal, sys
from pathlib import Path
from encodery.train import checkpoint
from encodery.train.launch import decode_recipe, start
write = checkpoint.write
def once(folder, step, *rest):
    write(folder, step, *rest)
    if step >= 12:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.write = once
start(decode_recipe(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "pair"])
def test_a_killed_run_resumes_bit_for_bit(task: str, planned: Planned, tmp_path: Path) -> None:
    recipe = planned(task, dropout=0.1, train={"checkpoint_every": "6steps"}).recipe
    start(recipe, tmp_path / "whole")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.encode()), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "recipe.json"), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False, timeout=120).returncode == -9
    assert checkpoint.list_checkpoints(tmp_path / "killed")
    assert resume(tmp_path / "killed").finished
    for name in ("model.safetensors", "modules/task.safetensors"):
        one, other = (read_tensors(tmp_path / run / "model" / name) for run in ("whole", "killed"))
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_seeds_differ_and_their_standard_deviation_is_reported(planned: Planned, tmp_path: Path) -> None:
    recipe = planned("regress", epochs=1).recipe
    runs = run_seeds(recipe, tmp_path / "runs", 2)
    values = runs["test_rmse"].values
    assert values[0] != values[1]
    assert runs["test_rmse"].mean == pytest.approx(sum(values) / 2)
    table = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert table["metrics"]["test_rmse"]["values"] == list(values)
    assert run_seeds(recipe, tmp_path / "runs", 2) == runs, "finished runs are not run again"
    assert summarise([1.0, 3.0]).std == pytest.approx(2**0.5)
    with pytest.raises(SettingsError, match="seeds = 1"):
        run_seeds(recipe, tmp_path / "one", 1)


def test_rows_without_a_split_are_held_out_by_their_text(tmp_path: Path, loaded: LoadedModel, rows: RowsOf) -> None:
    many = rows("classify", 60)
    doubled = {name: values + values for name, values in many.items()}
    write_rows(tmp_path / "rows.jsonl", doubled)
    made = plan_finetuning("classify", tmp_path / "rows.jsonl", loaded.path, {})
    job = FinetuneJob.from_recipe(made.recipe, _team(), torch.device("cpu"))
    assert job.data.dev is not None
    assert not set(job.data.dev["text"]) & set(job.data.train["text"])
    assert len(job.data.dev["text"]) + len(job.data.train["text"]) == 120
    assert any("rows have the text of an earlier row (" in note and "rows.jsonl, line" in note for note in made.notes)
    assert job.data.fingerprint == FinetuneJob.from_recipe(made.recipe, _team(), torch.device("cpu")).data.fingerprint


def test_leaks_missing_labels_and_wrong_columns_are_reported(tmp_path: Path, loaded: LoadedModel) -> None:
    rows: dict[str, list[Any]] = {"review": ["one cat", "two dog", "six sun"], "class": ["a", "b", None]}
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "dev.jsonl", {name: values[:2] for name, values in rows.items()})
    with pytest.raises(InputError, match=r"1 rows have no value in label: .*train\.jsonl, line 3"):
        plan_finetuning("classify", folder, loaded.path, {})
    made = plan_finetuning("classify", folder, loaded.path, {"missing": "drop"})
    assert "columns: text = review (by name), label = class (by name)" in made.notes
    place = f"{folder / 'dev.jsonl'}, line"
    assert f"dev: 2 rows are also in train: metrics on them are too optimistic ({place} 1; {place} 2)" in made.notes
    with pytest.raises(InputError, match=r"no such column\. Did you mean 'review'"):
        plan_finetuning("classify", folder, loaded.path, {"columns": {"text": "reviews"}})
    with pytest.raises(InputError, match="no column matches text, text_b"):
        plan_finetuning("pair", folder, loaded.path, {})
    write_rows(folder / "train.jsonl", {"review": ["one"], "class": ["a"]})
    with pytest.raises(InputError, match="all rows have the label 'a'"):
        plan_finetuning("classify", folder, loaded.path, {})
    (folder / "train.jsonl").unlink()
    with pytest.raises(EmptyInput):
        plan_finetuning("classify", folder, loaded.path, {})


def test_what_is_set_wins_over_the_rules() -> None:
    early = initial_settings("classify", {"task": {"pooling": "cls"}, "batch": 4})
    completed = complete_settings(
        early, {"optim": {"lr": 0.5}, "train": {"evals": 3}}, [10] * 100, ModelSettings(), 0.02
    )
    assert completed.optim is not None
    assert (completed.optim.lr, completed.batch, completed.train.evals, completed.train.budget) == (
        0.5,
        4,
        3,
        "300steps",
    )
    assert default_epochs(100, 16) == 20
    assert default_epochs(100_000, 64) == 2
    assert default_lr(384, 16, False, True) == 2 * default_lr(768, 16, False, True) == 1e-4
    assert default_lr(768, 16, False, False) == 5e-5
    assert default_lr(128, 16, False, False) == pytest.approx(6**1.4 * 5e-5, rel=1e-3)
    assert default_lr(768, 64, True, False) == 20 * default_lr(768, 16, False, False)
    with pytest.raises(SettingsError, match="max_length = 900"):
        initial_settings("classify", {"max_length": 900}).effective_max_length(512)


def test_data_is_read_and_tokenised_once_and_again_only_to_resume(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, prepared = list[object](), list[int]()
    read, prepare = data_module.read_tables, TextClassification.prepare

    def count_reads(path: Any) -> Any:
        reads.append(path)
        return read(path)

    def count_rows(self: TextClassification, rows: Any, *rest: Any) -> Any:
        prepared.append(len(rows["text"]))
        return prepare(self, rows, *rest)

    monkeypatch.setattr(data_module, "read_tables", count_reads)
    monkeypatch.setattr(TextClassification, "prepare", count_rows)
    plan = planned("classify", epochs=1)
    assert (len(reads), prepared) == (1, [96])
    start(plan.recipe, tmp_path / "run", build=plan.build)
    assert len(reads) == 1, "training reads nothing again"
    assert sorted(prepared, reverse=True)[:3] == [96, 40, 40], "train, dev and test rows are tokenised once each"
    run_seeds(plan.recipe, tmp_path / "runs", 2, builder=plan.builder)
    assert (len(reads), prepared.count(96)) == (1, 1), "further seeds read nothing again"
    job = FinetuneJob.from_recipe(plan.recipe, _team(), torch.device("cpu"))
    assert (len(reads), prepared.count(96)) == (2, 2), "a resumed run reads its data itself"
    assert job.data.fingerprint == plan.prepared.data.fingerprint


def _team() -> Any:
    from encodery.train.distributed import DistributedContext

    return DistributedContext()
