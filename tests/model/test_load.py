"""Models on disk: what is saved is loaded again; damaged or altered files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from encodery.base.artifact import Artifact, seal
from encodery.base.errors import ArtifactError
from encodery.model import golden
from encodery.model.load import load_model, save_model
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model, settings={"labels": ["no", "yes"]}, metrics={"heldout_loss": 2.5})
    return tmp_path / "model"


def same(a: Model, b: Model) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return (
        a.settings == b.settings and mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)
    )


def test_what_is_saved_is_loaded(model: Model, saved: Path) -> None:
    loaded = load_model(saved)
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert loaded.settings == {"labels": ["no", "yes"]}
    assert loaded.artifact is not None
    assert loaded.artifact.manifest.metrics == {"heldout_loss": 2.5}
    with pytest.raises(ArtifactError, match="no tokenizer"):
        _ = loaded.tokenizer


def test_half_precision_and_training_mode_are_saved_as_fp32(model: Model, tmp_path: Path) -> None:
    half = build_model(model.settings, 3).bfloat16().train()
    save_model(tmp_path / "model", half)
    loaded = load_model(tmp_path / "model").model
    assert half.training
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half.state_dict()[name].float())


def test_a_run_is_its_final_model(model: Model, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(run / "model", model)
    assert same(load_model(run).model, model)
    seal(run, "run", {})
    assert same(load_model(run).model, model)


def test_a_run_without_its_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ArtifactError, match="resume"):
        load_model(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "golden.safetensors"])
def test_a_truncated_file_is_refused_by_name(saved: Path, file: str) -> None:
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=file):
        load_model(saved)


def test_one_flipped_bit_is_refused_by_name(saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors.*SHA-256"):
        load_model(saved)


def test_a_truncated_file_with_a_fresh_manifest_is_still_refused_by_name(saved: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
    seal(saved, "model", _table(saved))
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged"):
        load_model(saved)


def test_weights_that_no_longer_compute_the_golden_outputs_are_refused(saved: Path) -> None:
    settings = Artifact.open(saved).manifest.settings
    state = load_file(saved / "model.safetensors")
    state["encoder.blocks.1.ffn.down.weight"] *= 1.05
    save_file(state, saved / "model.safetensors")
    seal(saved, "model", settings)
    with pytest.raises(ArtifactError, match=r"golden\.safetensors.*no longer computes"):
        load_model(saved)
    assert load_model(saved, verify=False)


def test_settings_that_changed_meaning_are_caught_by_the_golden_outputs(tmp_path: Path) -> None:
    """A window of another size: the same weights, other outputs."""
    settings = ModelSettings(
        width=16, depth=2, heads=2, vocab_size=64, max_length=128, mask=AlternatingMask(size=20, every=2)
    )
    save_model(tmp_path / "m", build_model(settings, 0))
    table = Artifact.open(tmp_path / "m").manifest.settings
    table["model"]["mask"]["size"] = 19
    seal(tmp_path / "m", "model", table)
    with pytest.raises(ArtifactError, match="no longer computes"):
        load_model(tmp_path / "m")


def test_nan_never_agrees_with_the_golden_outputs(model: Model) -> None:
    kept = golden.golden_outputs(model)
    assert golden.drift(model, kept) == 0
    broken = build_model(model.settings, 3).eval()
    with torch.no_grad():
        broken.encoder.embeddings.token_embeddings[:] = float("nan")
    assert golden.drift(broken, kept) == float("inf")


def test_a_missing_tensor_is_refused_by_name(saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    del state["heads.mlm.bias"]
    save_file(state, saved / "model.safetensors")
    seal(saved, "model", _table(saved))
    with pytest.raises(ArtifactError, match=r"heads\.mlm\.bias"):
        load_model(saved)


def _table(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["settings"])


@pytest.mark.parametrize("kind", ["corpus", "tokens"])
def test_other_artifacts_are_refused(tmp_path: Path, kind: str) -> None:
    seal(tmp_path, kind, {})
    with pytest.raises(ArtifactError, match=f"'{kind}'"):
        load_model(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        load_model(tmp_path)


def test_an_adapter_alone_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "peft_type": "LORA"}')
    with pytest.raises(ArtifactError, match=r"adapter.*some/base.*merge_and_unload"):
        load_model(tmp_path)
