"""Our embedding models in stock sentence-transformers: equal embeddings, prompts and lengths."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode, encode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import load_dense
from encodery.encoders.multi_vector import (
    KEY,
    MultiVectorEncoder,
    MultiVectorSettings,
    TokenProjection,
    golden_token_vectors,
)
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.encoders.sparse import SparseEncoder, SparseSettings
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.encoders.storage import MODULE, golden_vectors, module_tensors
from encodery.export import _modules as modules
from encodery.export.sentence_transformers import SentenceTransformersExporter
from encodery.finetune.artifact import save as save_task
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model import golden
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

PROMPTS = {"query": "find: ", "document": "text: "}


@pytest.fixture(scope="module")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    made = Tokenizer(Wordpiece().train(texts, 300))
    made.set_template()
    made.save(folder)
    return folder


def embedding(folder: Path, tokenizer: Path, texts: list[str], **embed: Any) -> LoadedModel:
    """A random encoder whose finish steps were fitted to the texts, as training leaves one behind."""
    settings = decode(DenseSettings, {"prompts": PROMPTS, "max_length": 40, **embed})
    model = build_model(ModelSettings(width=32, depth=2, heads=2, vocab_size=320, max_length=64), seed=1).eval()
    bare = decode(DenseSettings, {**encode(settings), "postprocess": []})
    plain = DenseEncoder(model, Tokenizer.load(tokenizer), bare, device="cpu")
    finishing = PostProcessing.fitted(settings.postprocess, plain.encode(texts, truncate="right").vectors)
    kept = module_tensors(plain.pooling, finishing)
    kept["golden"] = golden_vectors(plain.pool_batch, golden.golden_outputs(model), plain.device)
    save_model(folder, model, tokenizer, settings={"dense": encode(settings)}, modules={MODULE: kept})
    return load_model(folder)


CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls", "postprocess": []},
    "weighted": {"pooling": "weighted"},
    "whitened": {"postprocess": [{"is": "whiten", "keep": 8}, "normalise"]},
    "centred": {"postprocess": [{"is": "centre", "directions": 2}]},
    "cut": {"postprocess": [{"is": "truncate", "keep": 12}, "normalise"]},
}


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_equal(
    case: str, tokenizer: Path, texts: list[str], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    loaded = embedding(tmp_path / "model", tokenizer, texts[:60], **CASES[case])
    done = SentenceTransformersExporter().write(loaded, tmp_path / "out")
    assert done.metrics["drift_sentence_transformers"] <= 1e-5
    stock = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert stock.max_seq_length == 40
    assert stock.prompts["query"] == "find: "
    ours = DenseEncoder.from_loaded(loaded)
    for prompt in (None, "query"):
        expected = ours.encode(texts[:40], truncate="right", prompt=prompt).vectors
        theirs = stock.encode(texts[:40], prompt_name=prompt)
        np.testing.assert_allclose(theirs, expected, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_the_exported_folder_is_read_here(tokenizer: Path, texts: list[str], tmp_path: Path) -> None:
    for name in ("mean", "weighted"):
        loaded = embedding(tmp_path / name, tokenizer, texts[:20], **CASES[name])
        SentenceTransformersExporter(verify_with_peer=False).write(loaded, tmp_path / f"{name}-out")
        again = DenseEncoder.from_loaded(load_model(tmp_path / f"{name}-out"))
        assert again.settings == DenseEncoder.from_loaded(loaded).settings
        expected = DenseEncoder.from_loaded(loaded).encode(texts[:9], truncate="right").vectors
        np.testing.assert_allclose(again.encode(texts[:9], truncate="right").vectors, expected, atol=1e-6)


def test_a_static_model_is_a_static_embedding(
    tokenizer: Path, texts: list[str], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    teacher = embedding(tmp_path / "model", tokenizer, texts[:20])
    distill_static(teacher, tmp_path / "static", StaticDistillationSettings(dimension=16))
    loaded = load_model(tmp_path / "static")
    done = SentenceTransformersExporter().write(loaded, tmp_path / "out")
    assert done.format == "static"
    stock = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(stock.encode(texts[:30]), load_dense(loaded).encode(texts[:30]).vectors, atol=1e-5)


def test_real_weights_are_imported_and_exported(minilm: Path, texts: list[str], tmp_path: Path) -> None:
    done = SentenceTransformersExporter().write(load_model(minilm), tmp_path / "out")
    assert done.metrics["drift_sentence_transformers"] <= 1e-5
    one, other = (DenseEncoder.from_loaded(load_model(path)) for path in (minilm, tmp_path / "out"))
    assert one.settings == other.settings


def model_of(folder: Path, tokenizer: Path, **over: Any) -> LoadedModel:
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=320, max_length=64, **over)
    save_model(folder, build_model(settings, seed=1), tokenizer)
    return load_model(folder)


def test_sparse_term_weights_are_a_sparse_encoder(
    tokenizer: Path, texts: list[str], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    model = model_of(tmp_path / "bare", tokenizer).model
    sparse = encode(SparseSettings(max_length=40, prompts=PROMPTS))
    save_model(tmp_path / "model", model, tokenizer, settings={"sparse": sparse})
    loaded = load_model(tmp_path / "model")
    done = SentenceTransformersExporter().write(loaded, tmp_path / "out")
    assert done.metrics["drift_sentence_transformers"] <= 1e-5
    stock = sentence_transformers.SparseEncoder(str(tmp_path / "out"), device="cpu")
    assert stock.max_seq_length == 40
    theirs = stock.encode(texts[:20], convert_to_tensor=True, prompt_name="query").to_dense().numpy()
    ours = SparseEncoder.from_loaded(loaded, "cpu").encode(texts[:20], truncate="right", prompt="query")
    for number in range(20):
        words, weights = ours.at(number)
        np.testing.assert_array_equal(np.flatnonzero(theirs[number] > 1e-6), words[weights > 1e-6])
        np.testing.assert_allclose(theirs[number, words], weights, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"pooling": "cls", "head_dense": True}, {"pooling": "max"}])
@pytest.mark.parametrize("segments", [0, 2])
def test_a_ranker_is_a_cross_encoder(
    settings: dict[str, Any],
    segments: int,
    tokenizer: Path,
    texts: list[str],
    sentence_transformers: ModuleType,
    tmp_path: Path,
) -> None:
    base = model_of(tmp_path / "bare", tokenizer, type_vocab_size=segments)
    task, known = PassageRanking(**settings), TaskMetadata()
    torch.manual_seed(0)
    module = task.build(base.model.settings.shape, known)
    tuned = FineTuned(task, module, known, {}, 48, "right")
    save_task(tmp_path / "model", base.model, tuned, base, {}, {})
    loaded = load_model(tmp_path / "model")
    done = SentenceTransformersExporter().write(loaded, tmp_path / "out")
    assert done.metrics["drift_sentence_transformers"] <= 1e-5
    stock = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu")
    passages = [text[:60] for text in texts[:12]]
    theirs = stock.predict([("what is it", text) for text in passages])
    ours = Predictor.from_model(loaded, "cpu").score("what is it", passages)
    np.testing.assert_allclose(theirs, 1 / (1 + np.exp(-ours)), atol=1e-5)


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        ({"pooling": "layers"}, "'layers' has no counterpart"),
        ({"pooling": {"is": "mean", "include_special_tokens": False}}, "'mean' has no counterpart"),
        ({"postprocess": ["int8"]}, "postprocess = 'int8'"),
        ({"layers": 1}, "'layers' has no counterpart"),
    ],
)
def test_what_it_cannot_express(
    embed: dict[str, Any], message: str, tokenizer: Path, texts: list[str], tmp_path: Path
) -> None:
    loaded = embedding(tmp_path / "model", tokenizer, texts[:20], **embed)
    with pytest.raises(SettingsError, match=message):
        SentenceTransformersExporter(verify_with_peer=False).write(loaded, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_drift_is_refused(
    tokenizer: Path,
    texts: list[str],
    sentence_transformers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = embedding(tmp_path / "model", tokenizer, texts[:20])
    monkeypatch.setitem(modules.POOLING_MODES, type(DenseSettings().pooling), "cls_token")
    with pytest.raises(ArtifactError, match="outputs drift"):
        SentenceTransformersExporter().write(loaded, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "settings_table", [{}, {"query_length": 32, "skip_punctuation": True}], ids=["plain", "as in the paper"]
)
def test_multi_vector_embeddings_are_a_multi_vector_encoder(
    settings_table: dict[str, Any], tokenizer: Path, texts: list[str], sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    settings = MultiVectorSettings(dimension=12, max_length=40, prompts=PROMPTS, **settings_table)
    model = build_model(ModelSettings(width=32, depth=2, heads=2, vocab_size=320, max_length=64), seed=1).eval()
    encoder = MultiVectorEncoder(model, Tokenizer.load(tokenizer), TokenProjection(32, 12), settings, "cpu")
    kept = {**encoder.projection.state_dict(), "golden": golden_token_vectors(encoder)}
    save_model(tmp_path / "model", model, tokenizer, settings={KEY: encode(settings)}, modules={KEY: kept})
    done = SentenceTransformersExporter().write(load_model(tmp_path / "model"), tmp_path / "out")
    assert done.metrics["drift_sentence_transformers"] <= 1e-5
    stock = sentence_transformers.MultiVectorEncoder(str(tmp_path / "out"), device="cpu")
    assert stock.prompts["query"] == "find: "
    some = ["who, me?", *texts[:12]]
    queries = stock.encode_query(some, convert_to_numpy=True)
    documents = stock.encode_document(some, convert_to_numpy=True)
    ours = [encoder.encode(some, truncate="right", prompt=side) for side in ("query", "document")]
    for theirs, mine in ((queries, ours[0]), (documents, ours[1])):
        assert [len(rows) for rows in theirs] == np.diff(mine.ends, prepend=0).tolist()
        np.testing.assert_allclose(np.concatenate(theirs), mine.vectors, atol=1e-5)
    assert (min(len(rows) for rows in queries) == 32) == bool(settings_table)
    np.testing.assert_allclose(stock.similarity(queries, documents).numpy(), ours[0].similarity(ours[1]), atol=1e-4)
