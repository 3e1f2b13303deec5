"""Checkpoint formats against transformers: hidden states of every layer, logits, and round trips, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from encodery.base.parts import find_part, part_names
from encodery.checks.formats import random_model
from encodery.export.hf import HFExporter
from encodery.model.checkpoint import read_json, write_tensors
from encodery.model.conversion import exportable_format, format_of, to_checkpoint
from encodery.model.format_types import SpecialTokenIds
from encodery.model.formats import CheckpointFormat
from encodery.model.imported_folder import import_folder
from encodery.model.load import load_model
from encodery.model.network import Model
from encodery.model.shape import Batch

TOLERANCE = 2e-5
V, PAD = 97, 1
SMALL = {"vocab_size": V, "pad_token_id": PAD, "num_hidden_layers": 3}
BERT = SMALL | {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 56, "max_position_embeddings": 48}
ALBERT = BERT | {"embedding_size": 20, "hidden_dropout_prob": 0.1, "classifier_dropout_prob": 0.1}
MODERN = SMALL | {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64}
MODERN |= {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "local_attention": 10}
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
FULL, LOCAL = "full_attention", "sliding_attention"
THETAS = {FULL: {"rope_type": "default", "rope_theta": 900.0}, LOCAL: {"rope_type": "default", "rope_theta": 50.0}}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "bert-one-segment": ("Bert", BERT | {"type_vocab_size": 1}),
    "bert-five-segments-one-head": ("Bert", BERT | {"type_vocab_size": 5, "num_attention_heads": 1}),
    "bert-odd-sizes": ("Bert", BERT | {"hidden_size": 30, "num_attention_heads": 6, "intermediate_size": 17}),
    "bert-tanh-gelu": ("Bert", BERT | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
    "bert-relu": ("Bert", BERT | {"hidden_act": "relu"}),
    "bert-untied": ("Bert", BERT | {"tie_word_embeddings": False}),
    "bert-one-layer": ("Bert", BERT | {"num_hidden_layers": 1}),
    "electra": ("Electra", BERT | {"embedding_size": 12}),
    "electra-wide-embeddings": ("Electra", BERT | {"embedding_size": 32, "hidden_act": "relu"}),
    "electra-untied": ("Electra", BERT | {"embedding_size": 12, "tie_word_embeddings": False}),
    "roberta": ("Roberta", BERT | {"max_position_embeddings": 50, "type_vocab_size": 1}),
    "roberta-silu-head-stays-gelu": ("Roberta", BERT | {"hidden_act": "silu", "type_vocab_size": 2}),
    "roberta-other-padding": ("Roberta", BERT | {"pad_token_id": 4, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", BERT | {"type_vocab_size": 1}),
    "camembert": ("Camembert", BERT | {"type_vocab_size": 1, "tie_word_embeddings": False}),
    "albert": ("Albert", ALBERT | {"num_hidden_layers": 4, "num_hidden_groups": 2}),
    "albert-all-shared": ("Albert", ALBERT | {"hidden_act": "gelu", "layer_norm_eps": 1e-5}),
    "albert-none-shared": ("Albert", ALBERT | {"num_hidden_groups": 3, "type_vocab_size": 1}),
    "albert-untied": ("Albert", ALBERT | {"tie_word_embeddings": False}),
    "modernbert": ("ModernBert", MODERN | {"num_hidden_layers": 4}),
    "modernbert-every-2": ("ModernBert", MODERN | {"global_attn_every_n_layers": 2, "local_attention": 7}),
    "modernbert-all-global": ("ModernBert", MODERN | {"global_attn_every_n_layers": 1}),
    "modernbert-all-local": ("ModernBert", MODERN | {"layer_types": [LOCAL] * 3}),
    "modernbert-pattern": ("ModernBert", MODERN | {"layer_types": [LOCAL, FULL, FULL], "rope_parameters": THETAS}),
    "modernbert-thetas": ("ModernBert", MODERN | {"global_rope_theta": 700.0, "local_rope_theta": 30.0}),
    "modernbert-biases": ("ModernBert", MODERN | BIASES | {"norm_eps": 1e-3}),
    "modernbert-no-decoder-bias": ("ModernBert", MODERN | {"decoder_bias": False, "classifier_activation": "silu"}),
    "modernbert-untied": ("ModernBert", MODERN | {"tie_word_embeddings": False, "hidden_activation": "relu"}),
}


def peer_model(transformers: ModuleType, case: str, kind: str = "ForMaskedLM") -> Any:
    """A stock model whose weights are all random, those of norms and biases too."""
    name, config = CASES[case]
    made = getattr(transformers, f"{name}Config")(**config)
    torch.manual_seed(len(case))
    model = getattr(transformers, f"{name}{kind}")(made).eval()
    with torch.no_grad():
        for key, weight in sorted(model.state_dict().items()):
            if weight.is_floating_point():
                weight.copy_(torch.randn_like(weight) * 0.2 + (1.0 if "norm" in key.lower() and "weight" in key else 0))
    return model


def packed_and_padded(segments: int) -> tuple[Batch, dict[str, torch.Tensor]]:
    """The same sequences twice: packed, and padded with a mask."""
    draw = torch.Generator().manual_seed(5)
    lengths = [1, 2, 40, 7, 29, 7, 13]
    rows = [torch.randint(5, V, (n,), generator=draw) for n in lengths]
    kinds = [torch.randint(0, max(segments, 1), (n,), generator=draw) for n in lengths]
    batch = Batch.from_sequences([r.tolist() for r in rows], [k.tolist() for k in kinds] if segments > 1 else None)
    longest = max(lengths)
    padded = {
        "input_ids": torch.full((len(rows), longest), PAD),
        "attention_mask": torch.zeros(len(rows), longest).long(),
    }
    if segments > 1:
        padded["token_type_ids"] = torch.zeros(len(rows), longest).long()
    for i, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        padded["input_ids"][i, : len(row)] = row
        padded["attention_mask"][i, : len(row)] = 1
        if segments > 1:
            padded["token_type_ids"][i, : len(row)] = kind
    return batch, padded


@torch.inference_mode()
def compare(model: Model, theirs: Any) -> float:
    """Return the largest difference over all layers and, with a head, over the logits."""
    batch, padded = packed_and_padded(model.settings.type_vocab_size)
    padded["input_ids"][padded["attention_mask"] == 0] = theirs.config.pad_token_id
    expected = theirs(**padded, output_hidden_states=True)
    real = padded["attention_mask"].bool()
    ours = model(batch, keep_layers=True)
    assert ours.layers is not None
    layers = (*ours.layers[:-1], ours.hidden)  # the stock model's last state is that after the final norm
    states = expected.hidden_states
    assert len(layers) == len(states) == model.settings.depth + 1
    differences = [float((a - b[real]).abs().max()) for a, b in zip(layers, states, strict=True)]
    if "mlm" in model.heads:
        differences.append(float((model.mlm_head(ours.hidden, model.encoder) - expected.logits[real]).abs().max()))
    return max(differences)


@pytest.mark.parametrize("case", CASES)
def test_layers_and_logits_equal_the_peers(case: str, transformers: ModuleType, tmp_path: Path) -> None:
    theirs = peer_model(transformers, case)
    theirs.save_pretrained(tmp_path)
    difference = compare(import_folder(tmp_path).model, theirs)
    assert difference <= TOLERANCE, difference


@pytest.mark.parametrize("name", part_names(CheckpointFormat))
def test_the_example_of_every_format_computes_the_same_in_the_stock_class(
    name: str, transformers: ModuleType, tmp_path: Path
) -> None:
    part = find_part(CheckpointFormat, name)()
    model = random_model(dataclasses.replace(part.example(), vocab_size=V, max_length=48))
    special = SpecialTokenIds(pad=0, cls=2, sep=3, mask=4)
    config = part.write_config(model.settings, special)
    write_tensors(tmp_path / "model.safetensors", to_checkpoint(part, config, model, None))
    (tmp_path / "config.json").write_text(json.dumps(config))
    stock = getattr(transformers, part.stock_classes["mlm"]).from_pretrained(tmp_path).eval()
    difference = compare(model, stock)
    assert difference <= TOLERANCE, difference


@pytest.mark.parametrize("kind", ["ForMaskedLM", "Model", "ForSequenceClassification"])
@pytest.mark.parametrize("case", CASES)
def test_an_imported_checkpoint_is_exported_bit_for_bit(
    case: str, kind: str, transformers: ModuleType, tmp_path: Path
) -> None:
    peer_model(transformers, case, kind).save_pretrained(tmp_path / "in")
    first = import_folder(tmp_path / "in")
    config = read_json(tmp_path / "in" / "config.json")
    (tmp_path / "out").mkdir()
    write_tensors(
        tmp_path / "out" / "model.safetensors", to_checkpoint(format_of(config), config, first.model, first.origin)
    )
    (tmp_path / "out" / "config.json").write_text((tmp_path / "in" / "config.json").read_text())
    imported, exported = (
        load_file(tmp_path / "in" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert set(imported) == set(exported)
    for name, tensor in imported.items():
        assert tensor.dtype == exported[name].dtype
        assert torch.equal(tensor, exported[name]), name
    again = import_folder(tmp_path / "out")
    assert again.model.settings == first.model.settings
    assert (first.model.settings.head is not None) == (kind == "ForMaskedLM")
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_written_from_settings_loads_in_the_stock_class(
    case: str, transformers: ModuleType, tmp_path: Path
) -> None:
    """Without an origin: config.json and names come from the settings; both generations of keys agree."""

    theirs = peer_model(transformers, case)
    theirs.save_pretrained(tmp_path / "in")
    model = import_folder(tmp_path / "in").model
    special = SpecialTokenIds(pad=theirs.config.pad_token_id, cls=2, sep=3, mask=4)
    part = exportable_format(model.settings, special)
    config = part.write_config(model.settings, special)
    again = part.read_config(config, head="mlm", tied=model.settings.head.tied)  # type: ignore[union-attr]
    assert again == model.settings
    kind = getattr(transformers, config["architectures"][0])
    stock = kind(kind.config_class(**config)).eval()
    state = to_checkpoint(part, config, model, None)
    keys = stock.load_state_dict(state, strict=False)
    assert not keys.unexpected_keys
    assert {n.rsplit(".", 1)[0] for n in keys.missing_keys} <= {part.decoder_weight.rsplit(".", 1)[0]}  # tied
    stock.tie_weights()
    assert compare(model, stock) <= TOLERANCE


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_a_checkpoint_of_the_first_generation_is_exported_unchanged_and_the_peer_reads_it(
    case: str, transformers: ModuleType, tmp_path: Path
) -> None:
    """Norms called gamma and beta, the tied decoder stored a second time, a pooler, index buffers."""
    theirs = peer_model(transformers, case)
    theirs.save_pretrained(tmp_path / "in")
    part = format_of(read_json(tmp_path / "in" / "config.json"))
    file = tmp_path / "in" / "model.safetensors"
    state = load_file(file)
    state[part.decoder_weight] = state[f"{part.prefix}embeddings.word_embeddings.weight"].clone()
    state[f"{part.prefix}pooler.dense.weight"] = torch.randn(32, 32)
    state[f"{part.prefix}embeddings.position_ids"] = torch.arange(theirs.config.max_position_embeddings)[None]
    old = {
        n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for n in state
    }
    write_tensors(file, {old[name]: tensor for name, tensor in state.items()})
    done = HFExporter().write(load_model(tmp_path / "in"), tmp_path / "out")
    assert done.metrics["drift_transformers"] <= TOLERANCE
    imported, exported = load_file(file), load_file(tmp_path / "out" / "model.safetensors")
    assert imported.keys() == exported.keys()
    assert all(
        torch.equal(imported[name], exported[name]) and imported[name].dtype == exported[name].dtype
        for name in imported
    )
    assert compare(load_model(tmp_path / "out").model, theirs) <= TOLERANCE
