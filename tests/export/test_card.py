"""The model card: what it says of the model, of missing parts and of what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from encodery.base.artifact import Artifact
from encodery.export._card import CardTexts, model_card
from encodery.model.conversion import exportable_format
from encodery.model.format_types import SpecialTokenIds
from encodery.model.formats.bert import BertFormat
from encodery.model.formats.modernbert import ModernBertFormat
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings


def card(loaded: LoadedModel, texts: CardTexts | None = None, bare: bool = False, **config: Any) -> str:
    """The card of a model in the first format that can express it; `config` are further keys of config.json."""
    special = SpecialTokenIds(pad=0)
    chosen = exportable_format(loaded.model.settings, special)
    table = chosen.write_config(loaded.model.settings, special) | config
    metrics = {"drift_read_back": 0.0}
    return model_card(loaded, Path("tiny"), chosen, table, metrics, bare=bare, texts=texts or CardTexts())


def loaded_with(settings: ModelSettings, tmp_path: Path, **stored: Any) -> LoadedModel:
    save_model(tmp_path / "run" / "model", build_model(settings), **stored)
    return load_model(tmp_path / "run" / "model")


def test_the_card_states_size_usage_and_provenance(tmp_path: Path) -> None:
    loaded = loaded_with(BertFormat.example(), tmp_path, metrics={"heldout_loss": 2.5})
    text = card(loaded)
    assert isinstance(loaded.artifact, Artifact)
    size = sum(p.numel() for p in loaded.model.parameters())
    for expected in (
        "# tiny",
        "pipeline_tag: fill-mask",
        f"{size:,} parameters: 3 layers, width 16, 2 heads",
        "AutoModelForMaskedLM.from_pretrained",
        "| heldout_loss | 2.5 |",
        f"- model `{loaded.artifact.manifest.fingerprint}`",
        "drift read back 0",
        "is not recorded with the model",
        "Not stated.",
    ):
        assert expected in text, expected
    assert "## Recipe" not in text


def test_the_metrics_of_the_run_are_listed_before_those_of_the_model(tmp_path: Path) -> None:
    loaded = loaded_with(BertFormat.example(), tmp_path, metrics={"heldout_loss": 2.5})
    (tmp_path / "run" / "metrics.json").write_text('{"seconds": 61.25, "heldout_loss": 9.0, "by_split": {}}')
    text = card(loaded)
    assert "| seconds | 61.25 |\n| heldout_loss | 2.5 |" in text
    assert "by_split" not in text


@pytest.mark.parametrize(
    ("settings", "has_pooler"), [(BertFormat.example(), True), (ModernBertFormat.example(), False)]
)
def test_an_untrained_pooler_is_mentioned_if_the_format_has_one(settings: ModelSettings, has_pooler: bool) -> None:
    loaded = LoadedModel(Path("tiny"), build_model(settings))
    assert ("`pooler_output` was not trained" in card(loaded)) == has_pooler


def test_local_attention_and_title_and_licence_are_stated() -> None:
    loaded = LoadedModel(Path("tiny"), build_model(ModernBertFormat.example()))
    text = card(loaded, CardTexts(title="Small encoder", licence="Apache-2.0"))
    assert "3 layers, 1 of them with local attention to 4 tokens on each side" in text
    assert "# Small encoder" in text
    assert "license: apache-2.0" in text
    assert "license:" not in card(loaded, CardTexts(licence="my own terms"))


def test_a_head_that_is_left_out_is_stated(tmp_path: Path) -> None:
    loaded = LoadedModel(Path("tiny"), build_model(BertFormat.example()), {"task": {"is": "classify"}})
    assert "fine-tuned for the task `classify`, but this export has no head for it" in card(loaded, bare=True)
    assert "has no head for it" not in card(loaded)


@pytest.mark.parametrize(
    ("kind", "task", "calibration", "note"),
    [
        (
            "SequenceClassification",
            "multilabel",
            {"threshold": 0.25},
            "A label is predicted from this probability on: 0.25.",
        ),
        ("QuestionAnswering", "span", {"threshold": 1.5}, "of the best span by more than 1.5."),
        ("TokenClassification", "tag", {}, "that of its first token"),
        ("SequenceClassification", "regress", {}, "The output is the score itself."),
    ],
)
def test_the_head_of_a_task_has_a_note(kind: str, task: str, calibration: dict[str, float], note: str) -> None:
    loaded = LoadedModel(Path("tiny"), build_model(BertFormat.example()))
    exported = {"task": {"is": task}, "calibration": calibration}
    text = card(loaded, architectures=[f"BertFor{kind}"], encodery=exported)
    assert note in text
    assert f"AutoModelFor{kind}.from_pretrained" in text
