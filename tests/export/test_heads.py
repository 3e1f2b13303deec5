"""Heads of fine-tuned models in a folder of transformers: in a stock class, or refused; never left out silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from encodery.base.errors import SettingsError
from encodery.cli.__main__ import run
from encodery.export.hf import HFExporter
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.label_spans import ZeroShotSpans
from encodery.model.load import load_model
from encodery.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    return word_tokenizer(["red", "green", "one", "two", "cat", "dog", "sun", "##s", "."])


def test_a_head_is_not_left_out_silently(
    tuned_model: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tuned_model(tmp_path, tokenizer, ZeroShotSpans(), TaskMetadata(types=("a",))), tmp_path / "out"
    assert run(["model", "export", str(folder), "--format", "hf", "--out", str(out), "verify_with_peer=false"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "task 'label_spans'" in message
    assert "head=false" in message
    assert not out.exists()
    assert (
        run(
            [
                "model",
                "export",
                str(folder),
                "--format",
                "hf",
                "--out",
                str(out),
                "verify_with_peer=false",
                "head=false",
            ]
        )
        == 0
    )
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
    assert not any("cls.predictions" in name for name in load_file(out / "model.safetensors"))
    card = (out / "README.md").read_text()
    assert "fine-tuned for the task `label_spans`, but this export has no head for it" in card
    assert "pipeline_tag: feature-extraction" in card


def test_other_trained_modules_are_not_left_out_silently(
    weighing_model: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    loaded = load_model(weighing_model(tmp_path, tokenizer))
    with pytest.raises(SettingsError, match=r"trained with the encoder.*head=false"):
        HFExporter(verify_with_peer=False).write(loaded, tmp_path / "out")
    HFExporter(verify_with_peer=False, head=False).write(loaded, tmp_path / "out")
