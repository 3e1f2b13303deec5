"""`import encodery as en`: light to import; one handle for all that a model can do; the verbs that use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import encodery as en
from encodery.cli.__main__ import run
from encodery.tokens.tokenizer import Tokenizer

WORDS = "the a cat dog bird sat ran sang on in mat hill tree . , and big small red".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    """A model folder with random weights."""
    words = [*WORDS, *"bcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    return small_model(tmp_path_factory.mktemp("library"), word_tokenizer(words, lower=True), max_length=32)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows = [
        {"id": f"d{i}", "text": f"The {w} sat on the mat. And a big {w} ran.", "n": i} for i, w in enumerate(WORDS[2:5])
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_importing_is_light_and_names_are_found_when_used() -> None:
    code = (
        "import sys, encodery as en; assert not {'torch', 'numpy', 'qdrant_edge'} & set(sys.modules); "
        "assert set(en.__all__) <= set(dir(en)); assert en.__version__; en.load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert all(getattr(en, name) is not None for name in en.__all__)
    with pytest.raises(AttributeError, match="laod"):
        en.laod  # noqa: B018


def test_one_handle_for_everything(folder: Path, files: Path) -> None:
    model = en.load(folder)
    vectors = model.encode(["the cat sat", "", "a dog"])
    assert vectors.shape == (3, model.dimension) == (3, 32)
    np.testing.assert_allclose(model.similarity("the cat sat", ["the cat sat", "a dog"])[0, 0], 1, atol=1e-5)
    assert model.similarity(["a", "b"], ["c"]).shape == (2, 1)
    filled = model.fill("the [MASK] sat", top=3)
    assert len(filled.slots[0]) == 3
    assert sum(len(piece) for piece in model.stream(["a cat"] * 10)) == 10
    assert "2 × 32" in repr(model)
    assert run(["search", "index", str(files / "rows.jsonl"), "--model", str(folder), "--out", str(files / "i")]) == 0
    with model.search(files / "i") as searcher:
        assert searcher.search("bird").hits[0].document == "d2"


def test_verb_fill(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fill", "the [MASK] sat on <mask>", "--model", str(folder), "--top-k", "2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert [len(mask) for mask in row["masks"]] == [2, 2]
    assert run(["fill", "the [MASK] sat", "--model", str(folder)]) == 0
    assert "%" in capsys.readouterr().out
    assert run(["fill", "no mask", "--model", str(folder)]) == 2
    assert "[MASK]" in capsys.readouterr().err


def test_verb_embed(folder: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = en.load(folder).encode(["the cat", "a dog"])
    assert run(["embed", "encode", "the cat", "a dog", "--model", str(folder)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    texts = files / "texts.txt"
    texts.write_text("the cat\na dog\n" + "cat " * 100, encoding="utf-8")
    assert run(["embed", "encode", "--file", str(texts), "--model", str(folder), "--out", str(files / "v.npy")]) == 0
    assert np.load(files / "v.npy").shape == (3, 32)
    np.testing.assert_allclose(np.load(files / "v.npy")[:2], expected, atol=1e-6)
    assert (
        run(
            [
                "embed",
                "encode",
                "-f",
                str(texts),
                "-m",
                str(folder),
                "--truncate",
                "right",
                "-o",
                str(files / "v.jsonl"),
            ]
        )
        == 0
    )
    assert "70 tokens dropped" in capsys.readouterr().out
    assert len((files / "v.jsonl").read_text().splitlines()) == 3
    assert run(["embed", "encode", "--model", str(folder)]) == 2
    assert run(["embed", "encode", "cat " * 100, "--model", str(folder), "--truncate", "error"]) == 2


def test_verb_search(
    folder: Path, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, rows = str(files / "index"), str(files / "rows.jsonl")
    assert run(["search", "index", rows, "--model", str(folder), "--out", index, "passages.size=16"]) == 0
    assert "3 documents" in capsys.readouterr().out
    assert run(["search", "index", rows, "--model", str(folder), "--out", index, "passages.size=16"]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert run(["search", "query", index, "which", "dog", "--top-k", "1", "--json"]) == 0
    hit = json.loads(capsys.readouterr().out)["hits"][0]
    assert (hit["document"], hit["metadata"]["n"]) == ("d1", 1)
    for mode in ("hybrid", "dense", "bm25"):
        assert run(["search", "query", index, "bird", "--mode", mode, "--filter", "n>=2"]) == 0
        shown = capsys.readouterr().out
        assert "#d2" in shown
        assert " ms " in shown
    (files / "more.jsonl").write_text('{"id": "new", "text": "a small tree"}', encoding="utf-8")
    assert run(["search", "add", index, str(files / "more.jsonl")]) == 0
    assert run(["search", "delete", index, "d0"]) == 0
    assert run(["search", "stats", index, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["documents"] == 3
    lines = iter(["tree", "", "(((", "\x00"])

    def answer(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert run(["search", "query", index, "--interactive", "--mode", "bm25"]) == 0
    assert "#new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "INDEX"], "Give a query"),
        (["query", "INDEX", "x", "--mode", "denes"], "'dense'"),
        (["query", "INDEX", "x", "--filter", "oops"], "is no filter"),
        (["query", "nowhere", "x"], "nowhere"),
        (["delete", "INDEX"], "Nothing to delete"),
        (["index", "nowhere.txt", "--out", "OUT"], "no such file"),
        (["index", "rows.jsonl", "--out", "OUT", "passages.sise=3"], "'size'"),
        (["index", "rows.jsonl", "--out", "OUT", "engine.language=klingon"], "no stemmer"),
    ],
)
def test_verb_search_refuses(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(files)
    assert run(["search", "index", "rows.jsonl", "--out", "index"]) == 0
    named = [{"INDEX": "index", "OUT": "out"}.get(a, a) for a in arguments]
    assert run(["search", *named]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
