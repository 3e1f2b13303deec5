"""`encodery finetune` and `encodery predict` from end to end, and what they say."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from encodery.cli.__main__ import run
from encodery.tokens.tokenizer import Tokenizer

COLOURS = {"red": "warm", "green": "cold", "blue": "cold", "orange": "warm"}
SMALL = ["optim.lr=5e-3", "dropout=0", "train.threads=1", "train.precision=fp32", "train.evals=2"]


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    """A random encoder of 16 tokens whose tokens are words."""
    tokenizer = word_tokenizer([*COLOURS, "a", "the", "one"])
    return small_model(tmp_path_factory.mktemp("encoder"), tokenizer, depth=1, max_length=16)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = ["review,verdict"]
    for number in range(60):
        word, kind = list(COLOURS.items())[number % 4]
        before = [["a", "the", "one"][number // 3**place % 3] for place in range(4)]
        lines.append(f"{' '.join(before)} {word},{kind}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "rows.csv"


def test_from_a_file_to_predictions(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ["finetune", "classify", str(rows), "columns.label=verdict", "epochs=20", *SMALL]
    assert run([*arguments, "--model", str(model), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "columns: text = review (by name), label = verdict (set)" in output
    assert "rows are held out as dev rows" in output
    assert "2 classes:" in output
    assert "dev: accuracy 1.000" in output

    (tmp_path / "texts.txt").write_text("a orange\n\n" + "the blue " * 30 + "\n", encoding="utf-8")
    assert (
        run(["predict", str(tmp_path / "texts.txt"), "--model", str(out), "--out", str(tmp_path / "answers.jsonl")])
        == 0
    )
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["prediction"] for answer in answers][::2] == ["warm", "cold"]
    assert answers[2]["dropped"] == 46
    assert "dropped" not in answers[0]
    assert "46 tokens dropped" in capsys.readouterr().out

    assert run(["predict", str(rows), "--model", str(out), "--out", str(tmp_path / "rows.jsonl")]) == 0
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 60

    monkeypatch.setattr("sys.stdin", io.StringIO("the red\n"))
    assert run(["predict", "-", "--model", str(out), "--all"]) == 0
    [line] = capsys.readouterr().out.splitlines()[-1:]
    assert set(json.loads(line)["probabilities"]) == {"warm", "cold"}

    assert run(["predict", str(tmp_path / "texts.txt"), "--model", str(out), "--truncate", "error"]) == 2
    assert "Row 2 has 60 tokens" in capsys.readouterr().err
    before = (tmp_path / "answers.jsonl").read_text()
    to_old = [str(tmp_path / "texts.txt"), "--truncate", "error", "--out", str(tmp_path / "answers.jsonl")]
    assert run(["predict", *to_old, "--model", str(out)]) == 2
    assert (tmp_path / "answers.jsonl").read_text() == before, "what was there stays"
    assert not list(tmp_path.glob(".*draft"))
    capsys.readouterr()

    (tmp_path / "old.txt").write_bytes("a café orange\n".encode("cp1252"))
    assert run(["predict", str(tmp_path / "old.txt"), "--model", str(out)]) == 0
    assert "read as Windows-1252" in " ".join(capsys.readouterr().err.split())
    for wrong, message in (
        ([str(tmp_path / "texts.txt"), "text=body"], "text: "),
        ([str(tmp_path / "none.txt")], "none.txt"),
        ([str(rows), "--split", "tset"], "has no split 'tset'"),
        ([str(rows), "--types", "person"], "is for models of `label_spans`"),
    ):
        assert run(["predict", *wrong, "--model", str(out)]) == 2
        assert message in " ".join(capsys.readouterr().err.split())

    parts = [json.dumps({"review": "a red", "verdict": "warm", "split": split}) for split in ("train", "test", "test")]
    (tmp_path / "parts.jsonl").write_text("\n".join(parts) + "\n")
    assert run(["predict", str(tmp_path / "parts.jsonl"), "--model", str(out), "text=review"]) == 2
    assert "or --split" in " ".join(capsys.readouterr().err.split())
    assert run(["predict", str(tmp_path / "parts.jsonl"), "--model", str(out), "text=review", "--split", "test"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2

    assert run(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrix" in page
    assert "Calibration" in page
    assert "not recorded" not in page.split('id="recipe"')[0]


def test_several_seeds(model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["finetune", "classify", str(rows), "columns.label=verdict", "epochs=1", *SMALL, "--seeds", "2"]
    assert run([*arguments, "--model", str(model), "--out", str(tmp_path / "runs")]) == 0
    assert "(2 seeds)" in capsys.readouterr().out
    assert (tmp_path / "runs" / "seed-1" / "model").is_dir()


def test_escalation(model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    arguments = ["finetune", "auto-classify", str(rows), "columns.label=verdict", "epochs=1", *SMALL]
    assert run([*arguments, "--model", str(model), "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "linear: " in output
    assert "the gain is too small" in output
    assert "chosen: linear" in output
    assert run(["predict", str(rows), "--model", str(tmp_path / "run"), "--out", str(tmp_path / "answers.jsonl")]) == 0
    assert run(["resume", str(tmp_path / "run")]) == 2
    assert "there is nothing to resume" in " ".join(capsys.readouterr().err.split())


def test_wrong_arguments_are_named(model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(model), "--out", str(tmp_path / "run")]
    assert run(["finetune", "clasify", str(rows), *arguments]) == 2
    assert "Did you mean 'classify'" in capsys.readouterr().err
    assert run(["finetune", "classify", str(rows), *arguments]) == 2
    assert "no column matches label" in " ".join(capsys.readouterr().err.split())
    assert run(["predict", str(rows), "--model", str(model)]) == 2
    assert "has no task" in capsys.readouterr().err
    assert run(["finetune", "auto-classify", str(rows), *arguments, "--seeds", "3"]) == 2
    assert "run that stage with --seeds" in " ".join(capsys.readouterr().err.split())
