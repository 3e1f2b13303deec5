"""encodery model import and model export: the verbs on a real folder, and their errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from encodery.cli.__main__ import run
from encodery.model.load import save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", build_model(ModelSettings(width=16, depth=1, heads=2, vocab_size=64), 0))
    return tmp_path / "model"


def test_export_import_and_export_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "model",
                "export",
                str(model),
                "--format",
                "hf",
                "--out",
                str(tmp_path / "a"),
                "verify_with_peer=false",
                "title=Tiny one",
            ]
        )
        == 0
    )
    assert "layout bert" in capsys.readouterr().out
    assert (tmp_path / "a" / "README.md").read_text().count("# Tiny one") == 1
    assert run(["model", "import", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 0
    message = " ".join(capsys.readouterr().out.split())
    assert "with a masked-language-modelling head (layout bert)" in message
    assert "has no tokenizer" in message
    assert (
        run(
            [
                "model",
                "export",
                str(tmp_path / "b"),
                "--format",
                "hf",
                "--out",
                str(tmp_path / "c"),
                "verify_with_peer=false",
            ]
        )
        == 0
    )
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert json.loads((tmp_path / "a/config.json").read_text()) == json.loads((tmp_path / "c/config.json").read_text())


def test_lines_in_a_pipe_are_not_broken(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / ("a" * 100) / ("b" * 100)
    assert run(["model", "export", str(model), "--format", "hf", "--out", str(out), "verify_with_peer=false"]) == 0
    assert f"{out}: hf export, layout bert, 0.1 MB." in capsys.readouterr().out.splitlines()
    monkeypatch.setenv("COLUMNS", "40")
    assert (
        run(["model", "export", str(model), "--format", "hf", "--out", str(tmp_path / "c"), "verify_with_peer=false"])
        == 0
    )
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


def test_import_copies_a_model_folder(model: Path, tmp_path: Path) -> None:
    assert run(["model", "import", str(model), "--out", str(tmp_path / "copy")]) == 0
    a, b = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "copy"))
    assert all((a[name] == b[name]).all() for name in a)
    assert run(["model", "import", str(model), "--out", str(tmp_path / "copy")]) == 2
    assert run(["model", "import", str(model), "--out", str(tmp_path / "copy"), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "export", "MODEL", "--format", "hff", "--out", "OUT"], "'hff'. Did you mean 'hf'?"),
        (["model", "export", "MODEL", "--format", "hf", "--out", "OUT", "dtyp=float16"], "Did you mean 'dtype'?"),
        (["model", "export", "MODEL", "--format", "hf", "--out", "OUT", "dtype=float17"], "Did you mean 'float16'?"),
        (
            ["model", "export", "MODEL", "--format", "hf", "--out", "OUT", "checkpoint_format=modernbert"],
            "block = 'post' (needs 'pre')",
        ),
        (["model", "export", "OUT", "--format", "hf", "--out", "MODEL"], "no such folder"),
        (["model", "import", "OUT", "--out", "MODEL"], "no such folder"),
    ],
)
def test_errors_name_what_is_wrong(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(model), "OUT": str(tmp_path / "out")}
    assert run([places.get(argument, argument) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
