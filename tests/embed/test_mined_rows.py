"""Mined rows: negatives, a judge that filters them, a teacher that scores them; `encodery embed mine-negatives`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.cli.__main__ import run
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.mined_rows import MiningSettings, mine_rows
from encodery.embed.negatives.bm25 import BM25Negatives
from encodery.embed.negatives.random import RandomNegatives
from encodery.embed.negatives.reranked import RerankedNegatives
from encodery.encoders.dense import DenseEncoder
from encodery.finetune import artifact
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.load import LoadedModel, load_model

PAIRS = EmbeddingExamples((["q1", "q2", "q3", "q1"], ["red", "blue", "green", "crimson"]))
TRUTH = {"q1": {"red": 5.0, "crimson": 4.0, "scarlet": 4.5}, "q2": {"blue": 3.0, "scarlet": 3.0}, "q3": {"green": 2.0}}


def judge(query: str, texts: Sequence[str]) -> np.ndarray:
    return np.array([TRUTH[query].get(text, -1.0) for text in texts])


def scores(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([judge(query, [text]) for query, text in zip(queries, texts, strict=True)])


def test_the_judge_leaves_out_unlabelled_positives() -> None:
    """`scarlet` answers q1 nearly as well as `red` does, and is not labelled."""
    data = EmbeddingExamples((["q1", "q2", "q3"], ["red", "scarlet", "green"]))
    rows = list(
        mine_rows(
            data,
            MiningSettings(miner=RerankedNegatives(miner=RandomNegatives(), depth=4, margin=1.0), num_negatives=2),
            judge=judge,
        ).rows
    )
    assert [(row["positive"], set(row["negatives"])) for row in rows] == [
        ("red", {"green"}),
        ("scarlet", {"red", "green"}),
        ("green", {"red", "scarlet"}),
    ]
    plain = list(mine_rows(data, MiningSettings(miner=RandomNegatives(), num_negatives=2)).rows)
    assert set(plain[0]["negatives"]) == {"green", "scarlet"}


def test_a_teacher_scores_the_mined_rows() -> None:
    settings = MiningSettings(miner=RandomNegatives(), num_negatives=2)
    mined = mine_rows(PAIRS, settings, teacher=scores)
    for row in mined.rows:
        assert row["scores"] == [TRUTH[row["anchor"]].get(text, -1.0) for text in [row["positive"], *row["negatives"]]]
    short = mine_rows(PAIRS, MiningSettings(miner=RandomNegatives(), num_negatives=3), teacher=scores)
    assert [row["anchor"] for row in short.rows] == ["q2", "q3"], "q1 has two positives, two texts are left"
    assert "2 examples with fewer than 3" in short.notes[-1]


def test_pairs_are_scored_without_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encodery.embed.mined_rows.PAIRS_AT_ONCE", 3)
    rows = list(mine_rows(PAIRS, MiningSettings(num_negatives=0), teacher=scores).rows)
    assert [row["score"] for row in rows] == pytest.approx([1 / (1 + np.exp(-s)) for s in (5, 3, 2, 4)], abs=1e-5)
    with pytest.raises(SettingsError, match="pairs are only scored"):
        mine_rows(PAIRS, MiningSettings(num_negatives=0))
    with pytest.raises(InputError, match="one column"):
        mine_rows(EmbeddingExamples((["a"],)), MiningSettings())
    with pytest.raises(SettingsError, match=r"`encodery embed mine-negatives --judge`"):
        mine_rows(PAIRS, MiningSettings(miner=RerankedNegatives(miner=BM25Negatives())))


@pytest.fixture
def ranker(loaded: LoadedModel, tmp_path: Path) -> Path:
    """A cross-encoder with a random head."""
    task, known = PassageRanking(), TaskMetadata()
    torch.manual_seed(0)
    module = task.build(loaded.model.settings.shape, known)
    tuned = FineTuned(task, module, known, {}, 16, "right")
    artifact.save(tmp_path / "ranker", loaded.model, tuned, loaded, {}, {})
    return tmp_path / "ranker"


def test_rows_are_mined_scored_and_trained_on_from_the_command_line(
    loaded: LoadedModel,
    pairs: Callable[[int, int], EmbeddingExamples],
    ranker: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = pairs(40, 0)
    source = tmp_path / "pairs.jsonl"
    source.write_text(
        "".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in zip(*data.columns, strict=True)),
        encoding="utf-8",
    )
    model = str(loaded.path)
    out = tmp_path / "mined.jsonl"
    arguments = ["embed", "mine-negatives", str(source), "--model", model, "--out", str(out)]
    assert run([*arguments, "num_negatives=2", "miner.margin=0.0", "miner.depth=30"]) == 0
    assert "40 different anchors" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40
    assert run([*arguments, "--judge", str(ranker), "--scores", "num_negatives=2", "miner.is=random"]) == 0
    scored_rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    predictor = Predictor.from_model(load_model(ranker))
    for row in scored_rows[:5]:
        expected = predictor.score(row["anchor"], [row["positive"], *row["negatives"]])
        np.testing.assert_allclose(row["scores"], expected, atol=1e-4)
    quick = ["train.budget=2steps", "train.precision=fp32", "train.threads=1", "batch=8"]
    learn = ["embed", "train", str(out), "--model", model]
    assert run([*learn, "--recipe", "distil", "--out", str(tmp_path / "distilled"), *quick]) == 0
    assert "loss margin_mse" in capsys.readouterr().out
    assert (
        run(["embed", "mine-negatives", str(source), "--judge", str(ranker), "--out", str(out), "num_negatives=0"]) == 0
    )
    assert run([*learn, "--recipe", "dse", "--out", str(tmp_path / "dse"), *quick]) == 0
    assert "loss cosine_mse" in capsys.readouterr().out


def test_a_bi_encoder_learns_the_scores_of_a_cross_encoder(
    loaded: LoadedModel, pairs: Callable[[int, int], EmbeddingExamples], ranker: Path, tmp_path: Path
) -> None:
    """DSE: cosines are trained to equal the scores of a random cross-encoder."""
    tuned = load_model(ranker)
    teacher = Predictor.from_model(tuned)
    with torch.no_grad():
        for parameter in teacher.module.parameters():
            parameter.mul_(30)  # A random head gives all pairs nearly the same score.
    random_teacher = FineTuned(teacher.task, teacher.module, teacher.metadata, {}, 16, "right")
    artifact.save(tmp_path / "teacher", tuned.model, random_teacher, tuned, {}, {})
    queries, partners = pairs(60, 0).columns
    rows = [{"query": query, "positive": partners[7 * i % 60]} for i, query in enumerate(queries)]
    source, scored = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert (
        run(
            [
                "embed",
                "mine-negatives",
                str(source),
                "--judge",
                str(tmp_path / "teacher"),
                "--out",
                str(scored),
                "num_negatives=0",
            ]
        )
        == 0
    )
    scored_pairs = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    target = np.array([row["score"] for row in scored_pairs])
    logits = np.concatenate([teacher.score(row["query"], [row["positive"]]) for row in rows])
    np.testing.assert_allclose(target, 1 / (1 + np.exp(-logits)), atol=1e-4)
    assert target.std() > 0.1

    def agreement(model: Path) -> float:
        embedder = DenseEncoder.from_loaded(load_model(model))
        one, other = (embedder.encode([row[side] for row in scored_pairs]).vectors for side in ("anchor", "positive"))
        return float(np.corrcoef((one * other).sum(axis=1), target)[0, 1])

    assert agreement(Path(str(loaded.path))) < 0.5
    learn = ["embed", "train", str(scored), "--model", str(loaded.path), "--recipe", "dse"]
    steps = ["train.budget=60steps", "train.precision=fp32", "train.threads=1", "batch=16", "optim.is=adamw"]
    assert run([*learn, "--out", str(tmp_path / "student"), *steps, "optim.lr=3e-3"]) == 0
    assert agreement(tmp_path / "student") > 0.9


def test_missing_options_are_named(loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"query": "a1", "positive": "b1"}\n', encoding="utf-8")
    for options, message in (
        (["--out", str(tmp_path / "x.csv")], "written to .jsonl"),
        (["--out", str(tmp_path / "x.jsonl"), "--scores"], "name it with --judge"),
        (["--out", str(tmp_path / "x.jsonl")], "name a model with --model"),
        (["--out", str(tmp_path / "x.jsonl"), "--judge", str(loaded.path), "miner.is=random"], "task"),
        (["--out", str(tmp_path / "x.jsonl"), "--split", "test"], "no split 'test'"),
    ):
        assert run(["embed", "mine-negatives", str(source), *options]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
