"""Contract of exporters: every check of `encodery.checks.exporters` on every part; more of the Hugging Face one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import encodery.export._folder as files
from encodery import checks
from encodery.base.artifact import Artifact, create_artifact
from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.checks import exporters
from encodery.checks.exporters import SETTINGS, TEXT
from encodery.export import Exporter
from encodery.export.hf import HFExporter
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.masks.document import DocumentMask
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

UNVERIFIED = HFExporter(verify_with_peer=False)  # tests/parity compares with the peer
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
BATCH = Batch.from_sequences([[5, 6, 7], [9, 1], list(range(20, 38))])


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    return exporters.example(tmp_path)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        values: torch.Tensor = loaded.model.mlm_head(loaded.model(BATCH).hidden, loaded.model.encoder)
    return values


@pytest.mark.parametrize("check", checks.functions(exporters), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Exporter))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    part = find_part(Exporter, name)()
    if hasattr(part, "verify_with_peer"):
        part = dataclasses.replace(part, verify_with_peer=False)
    run_check(check, part)


def test_the_folder_reads_back_as_the_same_model(loaded: LoadedModel, tmp_path: Path) -> None:
    done = UNVERIFIED.write(loaded, tmp_path / "out")
    again = load_model(tmp_path / "out")
    torch.testing.assert_close(logits(again), logits(loaded), rtol=0, atol=1e-6)
    assert done.format == "bert"
    assert done.metrics["drift_read_back"] <= 1e-6
    assert again.tokenizer.encode(TEXT).tolist() == loaded.tokenizer.encode(TEXT).tolist()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == SETTINGS.vocab_size > loaded.tokenizer.used_size
    assert config["pad_token_id"] == loaded.tokenizer.pad_id
    tokens = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokens["model_max_length"] == SETTINGS.max_length
    assert "token_type_ids" not in tokens["model_input_names"]


def test_drift_is_refused_and_nothing_is_left(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = files.to_checkpoint

    def bent(*arguments: Any) -> dict[str, torch.Tensor]:
        state = true(*arguments)
        name = "bert.encoder.layer.1.attention.output.dense.bias"
        state[name] = torch.linspace(0, 0.01, 16)
        return state

    monkeypatch.setattr(files, "to_checkpoint", bent)
    with pytest.raises(ArtifactError, match="outputs drift"):
        UNVERIFIED.write(loaded, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "tokenizer"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_imported_and_exported_bit_for_bit(dtype: Any, loaded: LoadedModel, tmp_path: Path) -> None:
    HFExporter(verify_with_peer=False, dtype=dtype).write(loaded, tmp_path / "half")
    half = load_model(tmp_path / "half")
    assert half.origin is not None
    assert half.origin.dtype == dtype
    UNVERIFIED.write(half, tmp_path / "again")
    original, exported = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "again"))
    assert original.keys() == exported.keys()
    assert all(original[key].dtype == exported[key].dtype == getattr(torch, dtype) for key in original)
    assert all(torch.equal(original[key], exported[key]) for key in original)
    assert (tmp_path / "half" / "config.json").read_text() == (tmp_path / "again" / "config.json").read_text()


def test_an_imported_model_that_was_changed_is_exported_by_its_settings(loaded: LoadedModel, tmp_path: Path) -> None:
    UNVERIFIED.write(loaded, tmp_path / "out")
    imported = load_model(tmp_path / "out")
    assert imported.origin is not None
    imported.origin.extra_tensors["bert.pooler.dense.bias"] = torch.zeros(16)
    UNVERIFIED.write(imported, tmp_path / "same")
    assert "bert.pooler.dense.bias" in load_file(tmp_path / "same" / "model.safetensors")
    shorter = ModelSettings(**{**vars(imported.model.settings), "max_length": 16})
    state = imported.model.state_dict()
    state["encoder.positions.table.weight"] = state["encoder.positions.table.weight"][:16].clone()
    model = build_model(shorter, 0)
    model.load_state_dict(state)
    UNVERIFIED.write(LoadedModel(tmp_path, model, origin=imported.origin), tmp_path / "short")
    assert "bert.pooler.dense.bias" not in load_file(tmp_path / "short" / "model.safetensors")
    assert json.loads((tmp_path / "short" / "config.json").read_text())["max_position_embeddings"] == 16


def test_the_nearest_checkpoint_format_is_suggested(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'roberta'"):
        HFExporter(checkpoint_format="robert").write(loaded, tmp_path / "out")


def test_a_checkpoint_format_that_cannot_express_the_model_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="block = 'post'"):
        HFExporter(checkpoint_format="modernbert").write(loaded, tmp_path / "out")


def test_the_card_lists_metrics_training_data_and_licence(loaded: LoadedModel, tmp_path: Path) -> None:
    report = {
        "licenses": {"MIT": {"documents": 3, "bytes": 700}},
        "sources": {"somewhere": {"documents": 3, "bytes": 700}},
    }
    with create_artifact(tmp_path / "corpus", "corpus", {}) as draft:
        (draft.path / "report.json").write_text(json.dumps(report))
        draft.metrics["documents"] = 1234
    corpus = Artifact.open(tmp_path / "corpus")
    with create_artifact(tmp_path / "tokens", "tokens", {}, {"corpus": corpus}) as draft:
        (draft.path / "x").write_text("x")
    parents = {"tokens": Artifact.open(tmp_path / "tokens")}
    metrics, recipe = {"heldout_loss": 2.5}, {"recipe": {"budget": "10m"}}
    save_model(
        tmp_path / "kept",
        loaded.model,
        tmp_path / "tokenizer",
        provenance=Provenance(parents),
        metrics=metrics,
        settings=recipe,
    )
    HFExporter(verify_with_peer=False, title="Tiny", license="Apache-2.0").write(
        load_model(tmp_path / "kept"), tmp_path / "out"
    )
    text = (tmp_path / "out" / "README.md").read_text()
    front = ("# Tiny", "license: apache-2.0", "pipeline_tag: fill-mask")
    rows = ("| heldout_loss | 2.5 |", "1,234 documents", "| MIT | 3 | 700 |", "| somewhere | 3 | 700 |")
    for expected in (*front, *rows, corpus.manifest.fingerprint, "unused and were never trained", '"budget": "10m"'):
        assert expected in text, expected


def test_a_golden_sequence_is_longer_than_the_window(tmp_path: Path) -> None:
    """The golden sequences must be long enough to distinguish a local layer from a global one."""
    from encodery.model import golden
    from encodery.model.masks.window import WindowMask

    local = ModelSettings(width=16, depth=2, heads=2, vocab_size=64, max_length=90, mask=WindowMask(size=30))
    model = build_model(local, 0).eval()
    whole = build_model(ModelSettings(**{**vars(local), "mask": DocumentMask()}), 0).eval()
    assert golden.drift(whole, golden.golden_outputs(model)) > golden.TOLERANCE
