"""Folders of Hugging Face and sentence-transformers: read as they are, or refused by a message that names the cause."""

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


def test_a_folder_is_read(model: Model, folder: Path) -> None:
    loaded = load_model(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert loaded.artifact is None


def test_names_of_the_first_checkpoints_are_read_and_written(model: Model, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    old = {
        k: k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in state
    }
    rewrite(folder, {}, old)
    imported = load_file(folder / "model.safetensors")
    assert sum("gamma" in name for name in imported) == 6
    loaded = load_model(folder)
    assert all(torch.equal(t, loaded.model.state_dict()[name]) for name, t in model.state_dict().items())
    assert loaded.origin is not None
    exported = to_checkpoint(format_of(loaded.origin.config), loaded.origin.config, loaded.model, loaded.origin)
    assert exported.keys() == imported.keys()
    assert all(torch.equal(exported[name], imported[name]) for name in imported)


def test_a_bare_encoder_without_prefix_has_no_head(model: Model, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    rewrite(folder, {k: None for k in state if k.startswith("cls.")}, {k: k.removeprefix("bert.") for k in state})
    loaded = load_model(folder)
    assert loaded.model.settings.head is None
    assert torch.equal(loaded.model.encoder.token_embeddings, model.encoder.token_embeddings)
    with pytest.raises(SettingsError, match="no 'mlm' head"):
        _ = loaded.model.mlm_head


def test_shards(model: Model, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(sorted(state))}
    for shard in set(placed.values()):
        save_file({k: v.clone() for k, v in state.items() if placed[k] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    loaded = load_model(folder).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ArtifactError, match="model-00002-of-00003"):
        load_model(folder)


def test_a_classifier_is_converted_as_a_classifier_into_another_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    config = checkpoint.read_json(folder / "config.json") | {"architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    pattern = rf"import BertForSequenceClassification as M.*from_pretrained\('{folder}'\).*'{folder}-safetensors'"
    with pytest.raises(ArtifactError, match=pattern):
        load_model(folder)


def test_a_pickle_is_refused_with_a_command_to_convert_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin.*pickle.*save_pretrained"):
        load_model(folder)


def test_a_truncated_file_is_refused_by_name(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def test_a_missing_tensor_is_refused_by_name(folder: Path) -> None:
    rewrite(folder, {"bert.encoder.layer.1.output.dense.bias": None})
    with pytest.raises(ArtifactError, match=r"checkpoint.*bert\.encoder\.layer\.1\.output\.dense\.bias"):
        load_model(folder)


def test_an_encoder_with_tensors_of_its_own_is_refused_by_name(folder: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    rewrite(folder, {name: torch.zeros(3, 8)})
    with pytest.raises(ArtifactError, match="distance_embedding"):
        load_model(folder)


def test_a_tensor_of_the_wrong_shape_is_refused_by_name(folder: Path) -> None:
    rewrite(folder, {"bert.embeddings.word_embeddings.weight": torch.zeros(63, 16)})
    with pytest.raises(ArtifactError, match=r"embeddings\.word\.weight.*\(63, 16\).*\(64, 16\)"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "bert"}', '{"model_type": "bert", "hidden_size": "8"}'])
def test_a_damaged_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises((ArtifactError, SettingsError), match=r"checkpoint.*"):
        load_model(folder)


def test_repeated_tensors_are_exported_again_and_follow_the_weights(model: Model, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    embeddings, bias = state["bert.embeddings.word_embeddings.weight"], state["cls.predictions.bias"]
    extra = {"cls.predictions.decoder.weight": embeddings.clone(), "cls.predictions.decoder.bias": bias.clone()}
    pooler = {"bert.pooler.dense.weight": torch.randn(16, 16), "cls.seq_relationship.weight": torch.randn(2, 16)}
    rewrite(folder, extra | pooler)
    config = checkpoint.read_json(folder / "config.json")
    checkpoint_format = format_of(config)
    imported_model, origin = from_checkpoint(checkpoint_format, config, load_file(folder / "model.safetensors"))
    assert isinstance(imported_model.settings.head, MLMHead)
    assert imported_model.settings.head.tied
    assert set(origin.extra_tensors) == set(pooler)
    exported = to_checkpoint(checkpoint_format, config, imported_model, origin)
    imported = load_file(folder / "model.safetensors")
    assert exported.keys() == imported.keys()
    assert all(torch.equal(exported[name], imported[name]) for name in imported)
    with torch.no_grad():
        imported_model.encoder.token_embeddings.add_(1)
    changed = to_checkpoint(checkpoint_format, config, imported_model, origin)
    assert torch.equal(changed["cls.predictions.decoder.weight"], embeddings + 1)


def test_a_decoder_that_differs_is_not_tied_whatever_the_configuration_says(folder: Path) -> None:
    rewrite(folder, {"cls.predictions.decoder.weight": torch.randn(64, 16)})
    head = load_model(folder).model.settings.head
    assert isinstance(head, MLMHead)
    assert not head.tied


def test_an_untied_decoder_must_be_in_the_file(folder: Path) -> None:
    config = checkpoint.read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ArtifactError, match=r"decoder\.weight"):
        load_model(folder)


# sentence-transformers


def sentence_folder(folder: Path, modules: list[str], pooling: dict[str, Any]) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    table = [
        {"idx": i, "path": paths.get(m, m), "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
def test_a_sentence_transformers_folder_has_embedding_settings(
    folder: Path, tmp_path: Path, pooling: dict[str, Any]
) -> None:
    sentence_folder(folder, ["Transformer", "Pooling", "Normalize"], pooling)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: ", "document": ""}}')
    loaded = load_model(folder)
    expected = {
        "pooling": {"is": "cls"},
        "postprocess": [{"is": "normalise"}],
        "max_length": 24,
        "prompts": {"query": "q: "},
    }
    assert loaded.settings == {"dense": expected}
    save_model(tmp_path / "kept", loaded.model, settings=loaded.settings, provenance=Provenance(origin=loaded.origin))
    assert load_model(tmp_path / "kept").settings == {"dense": expected}


def test_a_pooling_without_modules_json_is_read(folder: Path) -> None:
    sentence_folder(folder, ["Transformer", "Pooling"], {"pooling_mode": "cls"})
    (folder / "modules.json").unlink()
    assert load_model(folder).settings["dense"]["pooling"] == {"is": "cls"}


def test_a_path_of_windows_is_read(folder: Path) -> None:
    sentence_folder(folder, ["Transformer", "Pooling"], {"pooling_mode": "cls"})
    table = json.loads((folder / "modules.json").read_text())
    table[1]["path"] = "1_Pooling\\"
    (folder / "modules.json").write_text(json.dumps(table))
    assert load_model(folder).settings["dense"]["pooling"] == {"is": "cls"}


def test_the_transformer_may_be_in_a_folder_of_its_own(model: Model, folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    folder.rename(whole / "0_Transformer")
    (whole / "0_Transformer" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n##s\n")
    (whole / "modules.json").write_text(
        '[{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]'
    )
    loaded = load_model(whole)
    assert torch.equal(loaded.model.encoder.token_embeddings, model.encoder.token_embeddings)
    assert loaded.tokenizer.encode("Words word", add_special_tokens=True).tolist() == [2, 5, 6, 5, 3]


def test_lower_casing_outside_the_tokenizer_is_refused(folder: Path) -> None:
    sentence_folder(folder, ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": true}')
    with pytest.raises(SettingsError, match="do_lower_case"):
        load_model(folder)


def test_unsupported_modules_are_refused(folder: Path) -> None:
    sentence_folder(folder, ["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"})
    with pytest.raises(SettingsError, match="'Dense'"):
        load_model(folder)


def test_two_poolings_are_refused(folder: Path) -> None:
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    sentence_folder(folder, ["Transformer", "Pooling"], both)
    with pytest.raises(SettingsError, match=r"cls.*mean"):
        load_model(folder)
