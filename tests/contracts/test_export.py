"""Contract of the exporters, for all parts in the folder; the Hugging Face one in more detail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import encodery.export._folder as files
from encodery.base.artifact import Artifact, create_artifact
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.export import Exporter
from encodery.export.hf import HFExporter
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.masks.document import DocumentMask
from encodery.model.network import build_model
from encodery.model.positions.alibi import ALiBi
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

SETTINGS = ModelSettings(width=16, depth=2, heads=2, vocab_size=192, max_length=40)
TEXT = "a masked language model predicts words that were masked in a text of many words"
UNVERIFIED = HFExporter(verify_with_peer=False)  # tests/parity compares with the peer
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
BATCH = Batch.from_sequences([[5, 6, 7], [9, 1], list(range(20, 38))])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    made = Tokenizer(Wordpiece(min_frequency=1).train([TEXT] * 3, 100))
    made.set_template()
    made.save(folder)
    return folder


@pytest.fixture
def loaded(tokenizer: Path, tmp_path: Path) -> LoadedModel:
    save_model(tmp_path / "model", build_model(SETTINGS, 1), tokenizer, metrics={"heldout_loss": 2.5})
    return load_model(tmp_path / "model")


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        values: torch.Tensor = loaded.model.mlm_head(loaded.model(BATCH).hidden, loaded.model.encoder)
    return values


@pytest.mark.parametrize("name", part_names(Exporter))
def test_what_every_exporter_does(name: str, loaded: LoadedModel, tmp_path: Path) -> None:
    part = find_part(Exporter, name)()
    assert decode(Exporter, encode(part)) == part
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
    if hasattr(part, "verify_with_peer"):
        part = decode(Exporter, {**encode(part), "verify_with_peer": False})
    done = part.write(loaded, tmp_path / "out")
    assert done.artifact.manifest.kind == "export"
    assert loaded.artifact is not None
    assert done.artifact.manifest.parents["model"]["fingerprint"] == loaded.artifact.manifest.fingerprint
    assert done.artifact.manifest.metrics == done.metrics
    done.artifact.verify()
    assert all(torch.equal(before[key], tensor) for key, tensor in loaded.model.state_dict().items())
    with pytest.raises(InputError, match="already exists"):
        part.write(loaded, tmp_path / "out")
    part.write(loaded, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", part_names(Exporter))
def test_a_model_that_it_cannot_express_is_refused_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=64, positions=ALiBi())
    loaded = LoadedModel(tmp_path, build_model(settings, 0))
    with pytest.raises(SettingsError, match="positions = 'alibi'"):
        find_part(Exporter, name)().write(loaded, tmp_path / "out")
    assert not list(tmp_path.iterdir())


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
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


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


def test_the_card_lists_metrics_training_data_and_licence(loaded: LoadedModel, tokenizer: Path, tmp_path: Path) -> None:
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
        tmp_path / "kept", loaded.model, tokenizer, provenance=Provenance(parents), metrics=metrics, settings=recipe
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
