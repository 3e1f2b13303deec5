"""Training of embeddings from the command line: what is printed, interruption, resuming and use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import spearmanr

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import name_of
from encodery.base.recipes import load_recipe, recipe_files
from encodery.base.run_log import read_log
from encodery.base.settings import decode
from encodery.cli.__main__ import run
from encodery.cli.embed.train import train_embeddings
from encodery.embed.heldout_metrics import EncodedVectors, retrieval_metrics
from encodery.embed.job import EmbedJob
from encodery.embed.planning import dev_evaluations, plan_training
from encodery.embed.text_pool import TextPool
from encodery.embed.training import EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.finetune.seeds import run_seeds
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer
from encodery.train import checkpoint
from encodery.train.distributed import DistributedContext
from encodery.train.launch import resume, start
from encodery.train.loop import RunResult

WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "re") for b in ("la", "ne", "so", "pi", "da", "ku")]
QUICK = ["train.precision=fp32", "train.threads=1", "batch=16", "optim.is=adamw", "optim.lr=3e-3"]


def train(
    data: Path, model: Path, out: Path, settings: Sequence[str] = (), console: Console | None = None, seeds: int = 1
) -> None:
    train_embeddings(data, str(model), out, settings, None, seeds, console or Console(width=200))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = Tokenizer(Wordpiece(min_frequency=1).train([" ".join(WORDS)] * 3, 150))
    made.set_template()
    made.save(folder / "tokenizer")
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=192, max_length=32)
    save_model(folder / "model", build_model(settings, 1), folder / "tokenizer")
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs: the words of a query, and their neighbours in the list."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("train", 150), ("dev", 40)):
        rows = []
        for _ in range(count):
            drawn = rng.choice(15, 2, replace=False)
            rows.append(
                {"query": " ".join(WORDS[i] for i in drawn), "positive": " ".join(WORDS[29 - i] for i in drawn)}
            )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_pairs_are_trained_on_reported_and_used(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ['encoder.prompts.query="ba "', "encoder.pooling.is=cls"]
    train(data, model, tmp_path / "run", [*QUICK, *prompts, "epochs=4"], console=Console(width=200))
    message = capsys.readouterr().out
    assert "columns: anchor = query (by name), positive = positive (by name)" in message
    assert "150 examples of 2 texts" in message
    assert "objective dense, loss infonce, 16 examples per step, budget 38steps" in message
    assert "held out: nDCG@10" in message
    assert "memory 0 MiB" not in message
    loaded = load_model(tmp_path / "run")
    assert loaded.settings["dense"]["prompts"] == {"query": "ba "}
    assert loaded.settings["dense"]["pooling"] == {"is": "cls"}
    curve = [line["ndcg"] for line in read_log(tmp_path / "run" / "log.jsonl") if "ndcg" in line]
    assert max(curve) > curve[0]
    assert run(["embed", "encode", "bala", "--model", str(tmp_path / "run"), "--prompt", "query"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 32


@pytest.mark.parametrize(
    "how",
    [{}, {"objective": {"whiten_before_training": True}, "encoder": {"postprocess": ["whiten", "normalise"]}}],
    ids=["plain", "whitened first"],
)
def test_an_interrupted_run_resumes_bit_for_bit(how: dict[str, Any], data: Path, model: Path, tmp_path: Path) -> None:
    over: dict[str, Any] = {"batch": 16, "dropout": 0.1, "train": {"budget": "12steps", "precision": "fp32"}, **how}
    over["train"] |= {"threads": 1, "checkpoint_every": "5steps", "evals": 4, "eval_time_fraction": 0.9}
    table = plan_training(data, model, None, over).training.recipe
    whole = start(table, tmp_path / "whole")
    assert whole.finished
    start(table, tmp_path / "cut")
    (tmp_path / "cut" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(checkpoint.list_checkpoints(tmp_path / "cut")[-1])
    again = resume(tmp_path / "cut")
    assert again.finished
    one, other = (load_model(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    assert all((one[name] == other[name]).all() for name in one)
    vectors = [
        DenseEncoder.from_loaded(load_model(tmp_path / name)).encode(["bala", "lu mi"]).vectors
        for name in ("whole", "cut")
    ]
    np.testing.assert_array_equal(*vectors)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of raw sentences."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "train.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def test_raw_sentences_alone_are_whitened(
    raw: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(raw, model, tmp_path / "out", console=Console(width=400))
    message = capsys.readouterr().out
    assert "nothing is trained; the embeddings are whitened" in message
    assert "fitted to 30 sentences; mean cosine of two sentences" in message
    before, after = load_model(model), load_model(tmp_path / "out")
    assert all((before.model.state_dict()[name] == at).all() for name, at in after.model.state_dict().items())
    assert [step["is"] for step in after.settings["dense"]["postprocess"]] == ["whiten", "normalise"]
    assert run(["embed", "encode", "bala", "--model", str(tmp_path / "out")]) == 0
    assert plan_training(raw, model, None, {"train": {"seed": 1}}).sentences == WORDS
    message = r"batch, epochs, train\.budget: without effect, since raw sentences alone are not trained on unless"
    with pytest.raises(SettingsError, match=message):
        train(raw, model, tmp_path / "other", ["epochs=1", "batch=8", "train.budget=3steps"])


def test_test_examples_are_scored_before_and_after_whitening(
    raw: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    rows = [{"a": WORDS[n], "b": WORDS[n + 5], "score": n % 7} for n in range(20)]
    (tmp_path / "raw" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ['encoder.prompts.query="ba "']
    train(tmp_path / "raw", model, tmp_path / "out", arguments, console=Console(width=400))
    message = capsys.readouterr().out
    after = load_model(tmp_path / "out")
    embedder = DenseEncoder.from_loaded(after)
    one = embedder.encode([row["a"] for row in rows], prompt="query").vectors
    other = embedder.encode([row["b"] for row in rows]).vectors
    expected = spearmanr((one * other).sum(1), [row["score"] for row in rows]).statistic
    assert after.artifact is not None
    assert after.artifact.manifest.metrics["test_spearman"] == pytest.approx(expected, abs=1e-3)
    assert f"test: Spearman correlation {expected:.3f}, " in message
    assert "before\n" in message


def test_training_on_raw_sentences_needs_a_recipe_or_dev_examples(raw: Path, model: Path, tmp_path: Path) -> None:
    planned = plan_training(raw, model, "simcse", {})
    assert planned.training.recipe.name == "simcse"
    assert planned.settings.dropout == 0.1
    assert planned.settings.train.budget == "10steps"
    assert planned.training.recipe.settings.batch == 64
    assert any("there are no dev rows that show" in note for note in planned.notes)
    assert name_of(plan_training(raw, model, "tsdae", {}).settings.objective) == "denoising"
    assert plan_training(raw, model, None, {"objective": "denoising"}).training.recipe.name == "base"
    assert plan_training(raw, model, None, {"loss": {"is": "infonce"}}).training.recipe.name == "simcse"

    shutil.copytree(raw, tmp_path / "watched")
    rows = [{"a": WORDS[n], "b": WORDS[n + 5], "score": n / 20} for n in range(20)]
    (tmp_path / "watched" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    watched = plan_training(tmp_path / "watched", model, None, {})
    assert watched.training.recipe.name == "simcse"
    assert not any("there are no dev rows that show" in note for note in watched.notes)


def test_the_batch_of_scored_pairs_follows_their_number(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    rows = [{"a": a, "b": b, "score": n % 7} for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS[:10])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = plan_training(path, model, None, {"epochs": 3})
    assert made.training.recipe.settings.batch == 8
    assert any("loss cosent, 8 examples per step (chosen by the number of examples)" in note for note in made.notes)
    assert made.settings.objective.whiten_before_training, "a model without embedding training is whitened"
    assert [name_of(step) for step in made.settings.encoder.postprocess] == ["whiten", "normalise"]
    for chosen in (
        {"objective": {"whiten_before_training": False}},
        {"encoder": {"postprocess": ["centre", "normalise"]}},
    ):
        assert not plan_training(path, model, None, {"epochs": 3, **chosen}).settings.objective.whiten_before_training
    start(
        plan_training(path, model, None, {"batch": 8, "train": {"budget": "2steps"}}).training.recipe, tmp_path / "run"
    )
    again = plan_training(path, tmp_path / "run", None, {"epochs": 3})
    assert not again.settings.objective.whiten_before_training, "an embedding model is not whitened again"
    arguments = plan_training(path, model, None, {"epochs": 3, "batch": 64})
    assert arguments.training.recipe.settings.batch == 64
    assert not any("chosen by" in note for note in arguments.notes)


@pytest.mark.parametrize("name", recipe_files("embed"))
def test_every_recipe_decodes_and_runs(name: str, data: Path, model: Path, tmp_path: Path) -> None:
    assert decode(EmbedTraining, load_recipe("embed", name))
    over: dict[str, Any] = {
        "batch": 8,
        "train": {"budget": "2steps", "precision": "fp32", "threads": 1, "eval_tokens": 200},
    }
    source = data
    if name == "distil":
        source = tmp_path / "scored.jsonl"
        row = {"query": "bala", "positive": "bane", "negative": "kola", "scores": [3.0, 1.0]}
        source.write_text("".join(json.dumps({**row, "query": word}) + "\n" for word in WORDS), encoding="utf-8")
    if name == "dse":
        source = tmp_path / "scored.jsonl"
        row = {"query": "bala", "positive": "bane"}
        source.write_text("".join(json.dumps({**row, "score": n / 30}) + "\n" for n in range(30)), encoding="utf-8")
    if name == "discsent":
        source = tmp_path / "documents.jsonl"
        text = "\n\n".join(WORDS)
        source.write_text("".join(json.dumps({"text": text}) + "\n" for _ in range(4)), encoding="utf-8")
    if name == "lealla":
        over["guide"] = str(model)
    result = start(plan_training(source, model, name, over).training.recipe, tmp_path / "run")
    assert result.finished
    assert result.metrics["steps"] == 2


@pytest.fixture
def whole(data: Path, tmp_path: Path) -> Path:
    """The same pairs with a test split."""
    folder = tmp_path / "whole"
    shutil.copytree(data, folder)
    shutil.copy(folder / "dev.jsonl", folder / "test.jsonl")
    return folder


def test_test_examples_are_scored_stored_and_reported(
    whole: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(whole, model, tmp_path / "run", [*QUICK, "epochs=2"], console=Console(width=200))
    message = capsys.readouterr().out
    assert "test: 40 examples are evaluated once, at the end" in message
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"held out: nDCG@10 {metrics['ndcg']:.3f} (best at step" in message
    assert f"test: nDCG@10 {metrics['test_ndcg']:.3f}\n" in message
    assert metrics["test_ndcg"] == pytest.approx(metrics["ndcg"], abs=1e-6), "the same rows and weights"
    assert metrics["test_ndcg"] == pytest.approx(metrics["best_metric"], abs=1e-6)
    kept = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text())["metrics"]
    assert kept["test_ndcg"] == metrics["test_ndcg"]
    assert run(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "ndcg, test rows" in page
    assert "test: 40 examples are evaluated once" in page


@pytest.mark.parametrize("truncate", ["error", "right", "left", "chunk"])
def test_one_policy_for_texts_that_are_too_long(
    truncate: str, whole: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in whole.glob("*.jsonl"):  # A third word, so that those that differ still do when one is cut.
        rows = [
            {c: f"{text} {text.split()[0]}" for c, text in json.loads(row).items()}
            for row in path.read_text().splitlines()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [*QUICK, "epochs=2", f"truncate={truncate}", "encoder.max_length=4"]
    if truncate == "error":
        with pytest.raises(InputError, match="has 3 tokens, the model takes 2"):
            train(whole, model, tmp_path / "run", arguments, console=Console(width=200))
        assert not (tmp_path / "run").exists()
        return
    train(whole, model, tmp_path / "run", arguments, console=Console(width=200))
    message = capsys.readouterr().out
    output = {"chunk": "windows whose embeddings are averaged (truncate = chunk)"}
    assert output.get(truncate, f"tokens are cut off (truncate = {truncate})") in " ".join(message.split())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = [json.loads(line) for line in (whole / "test.jsonl").read_text().splitlines()]
    texts = list(dict.fromkeys(text for row in rows for text in row.values()))
    vectors = EncodedVectors(DenseEncoder.from_loaded(load_model(tmp_path / "run")).encode(texts, truncate).vectors)
    numbers = np.array([[texts.index(row["query"]), texts.index(row["positive"])] for row in rows])
    assert metrics["test_ndcg"] == pytest.approx(retrieval_metrics(vectors, numbers)["ndcg"], abs=1e-3)


def test_few_held_out_examples_are_reported_and_select_nothing(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f'{{"query": "{WORDS[n % 30]} {n}", "positive": "{WORDS[(7 * n) % 30]} {n}"}}' for n in range(100)]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    train(tmp_path / "few.jsonl", model, tmp_path / "run", [*QUICK, "epochs=3"], console=Console(width=400))
    message = capsys.readouterr().out
    assert "of 100 rows are held out as dev rows" in message
    assert "the last ones are kept" in message
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "best_step" not in metrics
    assert f"held out: nDCG@10 {metrics['ndcg']:.3f}\n" in message


def test_several_seeds(
    whole: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "embed",
        "train",
        str(whole),
        "epochs=1",
        *QUICK,
        "--model",
        str(model),
        "--out",
        str(tmp_path / "all"),
    ]
    assert run([*arguments, "--seeds", "2"]) == 0
    message = capsys.readouterr().out
    entries = [json.loads((tmp_path / "all" / f"seed-{n}" / "metrics.json").read_text()) for n in (0, 1)]
    assert entries[0]["test_ndcg"] != entries[1]["test_ndcg"]
    table = json.loads((tmp_path / "all" / "seeds.json").read_text())
    assert set(table["metrics"]) == {"ndcg", "mrr", "test_ndcg", "test_mrr"}
    for name in table["metrics"]:
        assert table["metrics"][name]["values"] == [one[name] for one in entries]
    spread = table["metrics"]["test_ndcg"]
    assert f"test: nDCG@10 {spread['mean']:.4f} ± {spread['std']:.4f} (2 seeds)" in message
    assert f"held out: MRR@10 {table['metrics']['mrr']['mean']:.4f} ±" in message
    monkeypatch.setattr("encodery.finetune.seeds._run", lambda *_: pytest.fail("finished runs are not run again"))
    assert run([*arguments, "--seeds", "2"]) == 0
    assert run([*arguments, "--seeds", "2", "train.evals=4"]) == 0
    capsys.readouterr()
    assert run([*arguments, "--seeds", "2", "dropout=0.2"]) == 2
    assert "seed-0: holds a run with other settings (dropout)" in " ".join(capsys.readouterr().err.split())
    stopped = RunResult(tmp_path, False, 3, 0, 0.0, {})
    monkeypatch.setattr("encodery.finetune.seeds._run", lambda *_: stopped)
    capsys.readouterr()
    assert run([*arguments, "--seeds", "3"]) == 0
    assert "Run the same command to continue" in capsys.readouterr().out


def test_raw_sentences_have_no_seeds(raw: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a seed changes nothing"):
        train(raw, model, tmp_path / "out", console=Console(width=200), seeds=2)


def test_evaluations_suffice_for_patience_and_do_not_depend_on_the_clock(
    data: Path, model: Path, tmp_path: Path
) -> None:
    for epochs, evals in ((1, 10), (10, 10), (15, 15), (100, 20)):
        made = plan_training(data, model, None, {"epochs": epochs}).settings.train
        assert (made.evals, made.patience) == (evals, evals // 2)
        assert made.eval_time_fraction == 0.99
        assert made.eval_tokens == 16_384
    output = plan_training(data, model, None, {"train": {"patience": 0, "evals": 3, "eval_tokens": 99}}).settings.train
    assert (output.patience, output.evals, output.eval_tokens, output.eval_time_fraction) == (0, 3, 99, 0.99)
    assert [dev_evaluations(np.full(10_000, size), 2.0)["eval_tokens"] for size in (10, 40, 10**4)] == [
        16_384,
        40_000,
        131_072,
    ]
    two = [start(plan_training(data, model, None, {"epochs": 2}).training.recipe, tmp_path / name) for name in "ab"]
    curves = [[line["step"] for line in read_log(one.folder / "log.jsonl") if "ndcg" in line] for one in two]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 10 if two[0].step >= 10 else len(curves[0]) >= two[0].step


def test_a_run_stops_early_without_improvement(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*QUICK, "batch=8", "epochs=2"]
    train(data, model, tmp_path / "rising", arguments, console=Console(width=200))
    assert "stopped early" not in capsys.readouterr().out
    train(data, model, tmp_path / "never", [*arguments, "train.patience=0"], console=Console(width=200))
    one, other = (load_model(tmp_path / name).model.state_dict() for name in ("rising", "never"))
    assert all((one[name] == other[name]).all() for name in one), "patience that is not spent changes nothing"
    capsys.readouterr()
    monkeypatch.setattr(EmbedJob, "selection_metric", lambda job, score: -float(job.position))
    train(data, model, tmp_path / "falling", arguments, console=Console(width=200))
    message = capsys.readouterr().out
    metrics = json.loads((tmp_path / "falling" / "metrics.json").read_text())
    assert metrics["best_step"] == 4
    assert metrics["steps"] < 30
    assert f"stopped early, at step {metrics['steps']} of 38: no improvement in 5 evaluations" in message


def test_impossible_settings_are_refused_before_anything_runs(data: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'bach'\. Did you mean 'batch'"):
        train(data, model, tmp_path / "run", ["bach=3"])
    with pytest.raises(SettingsError, match="needs a score for each pair"):
        train(data, model, tmp_path / "run", ["loss.is=cosent"])
    assert not (tmp_path / "run").exists()


def test_data_is_tokenised_once_and_again_only_to_resume(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, pools = list[str](), list[int]()
    encode_batch, from_columns = Tokenizer.encode_batch, TextPool.from_columns

    def count_texts(self: Tokenizer, batch: Any, *rest: Any) -> Any:
        texts.extend(batch)
        return encode_batch(self, batch, *rest)

    def count_pools(columns: Any, *rest: Any) -> Any:
        pools.append(len(columns[0]))
        return from_columns(columns, *rest)

    monkeypatch.setattr(Tokenizer, "encode_batch", count_texts)
    monkeypatch.setattr(TextPool, "from_columns", count_pools)
    plan = plan_training(data, model, None, {"batch": 8, "train": {"budget": "2steps"}}).training
    assert plan is not None
    planned, splits = len(texts), len(pools)
    assert pools[0] == len(plan.prepared.train)
    assert plan.prepared.dev is not None
    assert planned == len(plan.prepared.pool.texts) + len(plan.prepared.dev.pool.texts), "each text once"
    start(plan.recipe, tmp_path / "run", build=plan.build)
    run_seeds(plan.recipe, tmp_path / "runs", 2, builder=plan.builder)
    assert (len(texts), len(pools)) == (planned, splits), "neither a run nor further seeds tokenise anything"
    job = EmbedJob.from_recipe(plan.recipe, DistributedContext(), torch.device("cpu"))
    assert len(pools) == 2 * splits, "a resumed run reads its data itself"
    assert job.prepared.fingerprint == plan.prepared.fingerprint
