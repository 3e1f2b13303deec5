"""all-MiniLM-L6-v2: layers, ids and embeddings of real weights for real texts, against the peers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encodery.base.settings import decode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.settings import DenseSettings
from encodery.model.conversion import format_of, to_checkpoint
from encodery.model.load import LoadedModel, Provenance, load_model, save_model
from encodery.model.shape import Batch

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def loaded(minilm: Path) -> LoadedModel:
    return load_model(minilm)


def test_every_layer_equals_the_peers(
    loaded: LoadedModel, minilm: Path, texts: list[str], transformers: ModuleType
) -> None:
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    padded = tokenizer(texts[:24], padding=True, truncation=True, max_length=96, return_tensors="pt")
    real = padded["attention_mask"].bool()
    rows = [row[mask].tolist() for row, mask in zip(padded["input_ids"], real, strict=True)]
    with torch.inference_mode():
        expected = theirs(**padded, output_hidden_states=True).hidden_states
        ours = loaded.model(Batch.from_sequences(rows), keep_layers=True)
    assert ours.layers is not None
    assert len({len(row) for row in rows}) > 8
    for mine, other in zip(ours.layers, expected, strict=True):
        assert (mine - other[real]).abs().max() <= TOLERANCE


def test_ids_equal_the_peers(loaded: LoadedModel, minilm: Path, texts: list[str], transformers: ModuleType) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    ours = loaded.tokenizer.encode_batch(texts, add_special_tokens=True)
    for mine, text in zip(ours, texts, strict=True):
        assert mine.tolist() == tokenizer(text)["input_ids"]
    assert max(map(len, ours)) > 128, "the file's own truncation must not act"


def test_embeddings_equal_those_of_sentence_transformers(
    loaded: LoadedModel, minilm: Path, texts: list[str], sentence_transformers: ModuleType
) -> None:
    settings = decode(DenseSettings, loaded.settings["dense"])
    assert settings.max_length == 256
    ours = DenseEncoder(loaded.model, loaded.tokenizer, settings, device="cpu").encode(texts, truncate="right").vectors
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    assert ours.shape == theirs.shape == (200, 384)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() >= 0.99999
    assert np.abs(ours - theirs).max() <= TOLERANCE


def test_the_folder_is_exported_bit_for_bit_from_an_artifact(loaded: LoadedModel, minilm: Path, tmp_path: Path) -> None:
    save_model(
        tmp_path / "kept",
        loaded.model,
        loaded.tokenizer_path,
        settings=loaded.settings,
        provenance=Provenance(origin=loaded.origin),
    )
    kept = load_model(tmp_path / "kept")
    assert kept.settings == loaded.settings
    assert kept.origin is not None
    exported = to_checkpoint(format_of(kept.origin.config), kept.origin.config, kept.model, kept.origin)
    original = load_file(minilm / "model.safetensors")
    assert set(exported) == set(original)
    for name, tensor in original.items():
        assert torch.equal(tensor, exported[name])
        assert tensor.dtype == exported[name].dtype
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        assert (tmp_path / "kept" / "tokenizer" / file).read_bytes() == (minilm / file).read_bytes()
