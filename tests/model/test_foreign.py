"""Hugging Face folders: read as they are, and refused by name where anything lacks or means something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import encodery.model.checkpoint as checkpoint
from encodery.base.errors import ArtifactError, SettingsError
from encodery.model.conversion import format_of, from_checkpoint, to_checkpoint
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import Provenance, load_model, save_model
from encodery.model.network import Model


def rewrite(folder: Path, change: Mapping[str, torch.Tensor | None], renames: dict[str, str] | None = None) -> None:
    """Change tensors of a checkpoint (None removes) and rename some."""
    state = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file({(renames or {}).get(k, k): v.clone() for k, v in state.items()}, folder / "model.safetensors")


def test_a_foreign_folder_is_read_as_it_is(model: Model, foreign: Path) -> None:
    loaded = load_model(foreign)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert loaded.artifact is None


def test_names_of_the_first_checkpoints_come_and_go(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    old = {
        k: k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in state
    }
    rewrite(foreign, {}, old)
    came = load_file(foreign / "model.safetensors")
    assert sum("gamma" in name for name in came) == 6
    loaded = load_model(foreign)
    assert all(torch.equal(t, loaded.model.state_dict()[name]) for name, t in model.state_dict().items())
    assert loaded.origin is not None
    went = to_checkpoint(format_of(loaded.origin.config), loaded.origin.config, loaded.model, loaded.origin)
    assert went.keys() == came.keys()
    assert all(torch.equal(went[name], came[name]) for name in came)


def test_a_bare_encoder_without_prefix_has_no_head(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    rewrite(foreign, {k: None for k in state if k.startswith("cls.")}, {k: k.removeprefix("bert.") for k in state})
    loaded = load_model(foreign)
    assert loaded.model.settings.head is None
    assert torch.equal(loaded.model.encoder.token_embeddings, model.encoder.token_embeddings)
    with pytest.raises(SettingsError, match="no 'mlm' head"):
        _ = loaded.model.mlm_head


def test_shards(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    (foreign / "model.safetensors").unlink()
    placed = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(sorted(state))}
    for shard in set(placed.values()):
        save_file({k: v.clone() for k, v in state.items() if placed[k] == shard}, foreign / shard)
    (foreign / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    loaded = load_model(foreign).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
    (foreign / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ArtifactError, match="model-00002-of-00003"):
        load_model(foreign)


def test_a_pickle_is_refused_with_the_way_to_convert_it(foreign: Path) -> None:
    (foreign / "model.safetensors").rename(foreign / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin.*pickle.*save_pretrained"):
        load_model(foreign)


def test_a_truncated_foreign_file_is_refused_by_name(foreign: Path) -> None:
    content = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged"):
        load_model(foreign)


def test_a_missing_foreign_tensor_is_refused_by_name(foreign: Path) -> None:
    rewrite(foreign, {"bert.encoder.layer.1.output.dense.bias": None})
    with pytest.raises(ArtifactError, match=r"foreign.*bert\.encoder\.layer\.1\.output\.dense\.bias"):
        load_model(foreign)


def test_an_encoder_with_tensors_of_its_own_is_refused_by_name(foreign: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    rewrite(foreign, {name: torch.zeros(3, 8)})
    with pytest.raises(ArtifactError, match="distance_embedding"):
        load_model(foreign)


def test_a_tensor_of_the_wrong_shape_is_refused_by_name(foreign: Path) -> None:
    rewrite(foreign, {"bert.embeddings.word_embeddings.weight": torch.zeros(63, 16)})
    with pytest.raises(ArtifactError, match=r"embeddings\.word\.weight.*\(63, 16\).*\(64, 16\)"):
        load_model(foreign)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "bert"}', '{"model_type": "bert", "hidden_size": "8"}'])
def test_a_damaged_configuration_is_refused(foreign: Path, text: str) -> None:
    (foreign / "config.json").write_text(text)
    with pytest.raises((ArtifactError, SettingsError), match=r"foreign.*"):
        load_model(foreign)


def test_repeated_tensors_go_out_as_they_came_and_follow_the_weights(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    words, bias = state["bert.embeddings.word_embeddings.weight"], state["cls.predictions.bias"]
    extra = {"cls.predictions.decoder.weight": words.clone(), "cls.predictions.decoder.bias": bias.clone()}
    pooler = {"bert.pooler.dense.weight": torch.randn(16, 16), "cls.seq_relationship.weight": torch.randn(2, 16)}
    rewrite(foreign, extra | pooler)
    config = checkpoint.read_json(foreign / "config.json")
    door = format_of(config)
    found, origin = from_checkpoint(door, config, load_file(foreign / "model.safetensors"))
    assert isinstance(found.settings.head, MLMHead)
    assert found.settings.head.tied
    assert set(origin.extra_tensors) == set(pooler)
    went = to_checkpoint(door, config, found, origin)
    came = load_file(foreign / "model.safetensors")
    assert went.keys() == came.keys()
    assert all(torch.equal(went[name], came[name]) for name in came)
    with torch.no_grad():
        found.encoder.token_embeddings.add_(1)
    assert torch.equal(to_checkpoint(door, config, found, origin)["cls.predictions.decoder.weight"], words + 1)


def test_a_decoder_that_differs_is_not_tied_whatever_the_configuration_says(foreign: Path) -> None:
    rewrite(foreign, {"cls.predictions.decoder.weight": torch.randn(64, 16)})
    head = load_model(foreign).model.settings.head
    assert isinstance(head, MLMHead)
    assert not head.tied


def test_an_untied_decoder_must_be_there(foreign: Path) -> None:
    config = checkpoint.read_json(foreign / "config.json")
    (foreign / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ArtifactError, match=r"decoder\.weight"):
        load_model(foreign)


# sentence-transformers


def sentence_folder(foreign: Path, modules: list[str], pooling: dict[str, Any]) -> Path:
    (foreign / "1_Pooling").mkdir()
    (foreign / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    table = [
        {"idx": i, "path": paths.get(m, m), "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)
    ]
    (foreign / "modules.json").write_text(json.dumps(table))
    return foreign


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
def test_a_sentence_folder_tells_how_to_embed(foreign: Path, tmp_path: Path, pooling: dict[str, Any]) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling", "Normalize"], pooling)
    (foreign / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (foreign / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: ", "document": ""}}')
    loaded = load_model(foreign)
    expected = {
        "pooling": {"is": "cls"},
        "postprocess": [{"is": "normalise"}],
        "max_length": 24,
        "prompts": {"query": "q: "},
    }
    assert loaded.settings == {"dense": expected}
    save_model(tmp_path / "kept", loaded.model, settings=loaded.settings, provenance=Provenance(origin=loaded.origin))
    assert load_model(tmp_path / "kept").settings == {"dense": expected}


def test_the_transformer_may_lie_in_a_folder_of_its_own(model: Model, foreign: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    foreign.rename(whole / "0_Transformer")
    (whole / "0_Transformer" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n##s\n")
    (whole / "modules.json").write_text(
        '[{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]'
    )
    loaded = load_model(whole)
    assert torch.equal(loaded.model.encoder.token_embeddings, model.encoder.token_embeddings)
    assert loaded.tokenizer.encode("Words word", add_special_tokens=True).tolist() == [2, 5, 6, 5, 3]


def test_lower_casing_outside_the_tokenizer_is_refused(foreign: Path) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    (foreign / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": true}')
    with pytest.raises(SettingsError, match="do_lower_case"):
        load_model(foreign)


def test_modules_we_would_not_compute_are_refused(foreign: Path) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"})
    with pytest.raises(SettingsError, match="'Dense'"):
        load_model(foreign)


def test_two_poolings_at_once_are_refused(foreign: Path) -> None:
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    sentence_folder(foreign, ["Transformer", "Pooling"], both)
    with pytest.raises(SettingsError, match=r"cls.*mean"):
        load_model(foreign)
