"""The answers of the server equal those of the library, at any concurrency and in any batch."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.encoders.dense import DenseEncoder
from encodery.encoders.sparse import SparseEncoder
from encodery.finetune.predict import Predictor
from encodery.generate.fill import FillMask
from encodery.model.load import LoadedModel, load_model
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.runtimes.native import LIBRARY
from encodery.serve.models import ServeSettings, open_models

DRAW = np.random.default_rng(0)
TEXTS = [" ".join(f"w{n}" for n in DRAW.integers(0, 100, size)) for size in DRAW.integers(1, 28, 120)]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return result


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_vectors_at_any_concurrency(client: httpx.Client, base: LoadedModel, threads: int) -> None:
    expected = DenseEncoder.from_loaded(base).encode(TEXTS).vectors

    def ask(first: int) -> list[list[float]]:
        result: list[list[float]] = post(client, "/embed", inputs=TEXTS[first : first + 1 + first % 5])
        return result

    firsts = list(range(len(TEXTS) - 5))
    with ThreadPoolExecutor(threads) as pool:
        for first, rows in zip(firsts, pool.map(ask, firsts), strict=True):
            assert cosines(np.array(rows), expected[first : first + len(rows)]).min() >= 0.99999


@pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed int8 engine was not compiled at install")
def test_8_bit_vectors_equal_the_librarys_bit_for_bit(base: LoadedModel, start: Any) -> None:
    """At any concurrency, in any batch, as numbers and in base64, also for texts in several windows."""
    small = DenseEncoder.from_loaded(base).with_runtime(PackedInt8())
    texts = [*TEXTS, " ".join(TEXTS[:6])]
    expected = {policy: small.encode(texts, truncate=policy).vectors for policy in ("chunk", "right")}
    running = start(open_models(ServeSettings((f"words={base.path}",), runtime="packed_int8", threads=2)))
    try:
        with running.client() as client:

            def equal(first: int) -> bool:
                places = [place % len(texts) for place in range(first, first + 1 + first % 7)]
                policy, some = ("chunk", "right")[first % 2], [texts[place] for place in places]
                plain = post(client, "/embed", inputs=some, truncate=policy)
                form = {"model": "words", "truncate": policy, "encoding_format": "base64"}
                data = post(client, "/v1/embeddings", input=some, **form)["data"]
                coded = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data]
                expected_value = expected[policy][places]
                return np.array_equal(np.array(plain, np.float32), expected_value) and np.array_equal(
                    np.stack(coded), expected_value
                )

            for threads in (1, 8, 64):
                with ThreadPoolExecutor(threads) as pool:
                    assert all(pool.map(equal, range(len(texts)))), threads
    finally:
        running.stop()


def test_all_formats_of_openai_give_the_same_vectors(client: httpx.Client, base: LoadedModel) -> None:
    expected = DenseEncoder.from_loaded(base).encode(TEXTS[:3]).vectors
    plain = post(client, "/v1/embeddings", model="words", input=TEXTS[:3])
    assert [one["index"] for one in plain["data"]] == [0, 1, 2]
    assert plain["usage"]["prompt_tokens"] == sum(len(text.split()) + 2 for text in TEXTS[:3])
    coded = post(client, "/v1/embeddings", model="words", input=TEXTS[:3], encoding_format="base64")
    ids = [[int(i) for i in base.tokenizer.encode(text)] for text in TEXTS[:3]]
    by_ids = post(client, "/v1/embeddings", model="words", input=ids)
    one = post(client, "/v1/embeddings", model="words", input=ids[0])
    assert cosines(np.array([row["embedding"] for row in plain["data"]]), expected).min() >= 0.99999
    result = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded["data"]])
    assert cosines(result, expected).min() >= 0.99999
    assert cosines(np.array([row["embedding"] for row in by_ids["data"]]), expected).min() >= 0.99999
    assert cosines(np.array([one["data"][0]["embedding"]]), expected[:1]).min() >= 0.99999


def test_dimensions_prompts_windows_and_lengths(client: httpx.Client, base: LoadedModel) -> None:
    embedder = DenseEncoder.from_loaded(base)
    whole = embedder.encode(TEXTS[:4]).vectors
    short = np.array(post(client, "/embed", inputs=TEXTS[:4], dimensions=8))
    assert short.shape == (4, 8)
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    assert cosines(short, whole[:, :8]).min() >= 0.99999
    request = np.array(post(client, "/embed", inputs=TEXTS[:4], prompt_name="query"))
    assert cosines(request, embedder.encode(TEXTS[:4], prompt="query").vectors).min() >= 0.99999
    long = " ".join(f"w{n}" for n in range(90))
    for policy in ("chunk", "left", "right"):
        response = client.post("/embed", json={"inputs": [long, "w1"], "truncate": policy})
        expected = embedder.encode([long, "w1"], truncate=policy)
        assert cosines(np.array(response.json()), expected.vectors).min() >= 0.99999
        assert int(response.headers["x-dropped-tokens"]) == expected.dropped.sum()
    raw = np.array(post(client, "/embed", inputs=TEXTS[:4], normalize=False))
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-3)
    assert cosines(raw, whole).min() >= 0.99999


def test_similarity_and_tokens(client: httpx.Client, base: LoadedModel) -> None:
    vectors = DenseEncoder.from_loaded(base).encode(TEXTS[:4]).vectors
    result = post(client, "/similarity", inputs={"source_sentence": TEXTS[0], "sentences": TEXTS[1:4]})
    assert result == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-5)
    states = post(client, "/embed_all", inputs=TEXTS[:2], model="words")
    assert [len(rows) for rows in states] == [len(text.split()) + 2 for text in TEXTS[:2]]
    assert cosines(np.array([np.mean(rows, 0) for rows in states]), vectors[:2]).min() >= 0.99999
    pieces = post(client, "/tokenize", inputs="w1 w22", model="words")
    assert [(one["text"], one["special"], one["start"], one["stop"]) for one in pieces[0]] == [
        ("[CLS]", True, None, None),
        ("w1", False, 0, 2),
        ("w22", False, 3, 6),
        ("[SEP]", True, None, None),
    ]


def test_sparse_embeddings(client: httpx.Client, folders: dict[str, Path]) -> None:
    expected = SparseEncoder.from_loaded(load_model(folders["sparse"])).encode(TEXTS[:5])
    for number, row in enumerate(post(client, "/embed_sparse", inputs=TEXTS[:5])):
        words, weights = expected.at(number)
        assert [one["index"] for one in row] == words.tolist()
        assert [one["value"] for one in row] == pytest.approx(weights.tolist(), abs=1e-5)


def test_reranking(client: httpx.Client, folders: dict[str, Path]) -> None:
    scores = Predictor.from_model(load_model(folders["ranker"])).score("w1 w2", TEXTS[:9])
    result = post(client, "/rerank", query="w1 w2", texts=TEXTS[:9], raw_scores=True, return_text=True)
    assert [one["index"] for one in result] == np.argsort(-scores).tolist()
    assert [one["score"] for one in result] == pytest.approx(np.sort(scores)[::-1].tolist(), abs=1e-5)
    assert [one["text"] for one in result] == [TEXTS[one["index"]] for one in result]
    documents: list[Any] = [{"text": TEXTS[0]}, *TEXTS[1:9]]
    first = post(client, "/v1/rerank", query="w1 w2", documents=documents, top_n=3, return_documents=True)
    probabilities = 1 / (1 + np.exp(-scores))
    assert len(first["results"]) == 3
    for one in first["results"]:
        assert one["relevance_score"] == pytest.approx(probabilities[one["index"]], abs=1e-5)
        assert one["document"]["text"] == TEXTS[one["index"]]
    second = post(client, "/v2/rerank", query="w1 w2", documents=documents, return_documents=True)
    assert "document" not in second["results"][0]
    cut = post(client, "/v2/rerank", query="w1", documents=["w2 w3 w4"], max_tokens_per_doc=1)
    same = post(client, "/v2/rerank", query="w1", documents=["w2"])
    assert cut["results"][0]["relevance_score"] == pytest.approx(same["results"][0]["relevance_score"], abs=1e-6)


def test_classes_tags_and_answers(client: httpx.Client, folders: dict[str, Path]) -> None:
    expected = Predictor.from_model(load_model(folders["classes"])).predict(TEXTS[:6]).answers
    result = post(client, "/predict", inputs=[[text] for text in TEXTS[:6]])
    for row, answer in zip(result, expected, strict=True):
        assert row[0]["label"] == answer["prediction"]
        assert {one["label"]: one["score"] for one in row} == pytest.approx(answer["probabilities"], abs=1e-5)
    alone = post(client, "/predict", inputs=TEXTS[0])
    assert [one["label"] for one in alone] == [one["label"] for one in result[0]]
    long = " ".join(TEXTS[:8])
    spans = Predictor.from_model(load_model(folders["tags"])).predict([long]).answers[0]["spans"]
    stored = post(client, "/tag", inputs=long)[0]
    assert spans
    assert [(one["start"], one["end"], one["label"]) for one in stored] == [
        (one["start"], one["end"], one["label"]) for one in spans
    ]
    assert all(one["text"] == long[one["start"] : one["end"]] for one in stored)
    rows = {"question": ["w1 w2"], "context": [long]}
    answer = Predictor.from_model(load_model(folders["spans"])).predict(rows).answers[0]
    arguments = post(client, "/answer", question="w1 w2", context=long)
    assert (arguments["prediction"], arguments["start"]) == (answer["prediction"], answer["start"])


def test_masks(client: httpx.Client, base: LoadedModel) -> None:
    text = "w1 [MASK] w3 [MASK]"
    expected = FillMask(top_k=3).generate(base.model, base.tokenizer, [text])[0]
    result = post(client, "/fill", inputs=text, top_k=3, model="words")[0]
    assert result["text"] == expected.text
    assert [[p["id"] for p in slot] for slot in result["masks"]] == [[p.id for p in slot] for slot in expected.slots]


def test_requests_of_tasks_are_computed_in_one_batch(client: httpx.Client, folders: dict[str, Path]) -> None:
    """Examples of different requests in one batch are separated again."""
    expected = Predictor.from_model(load_model(folders["tags"])).predict(TEXTS[:40]).answers
    with ThreadPoolExecutor(20) as pool:
        result = list(pool.map(lambda text: post(client, "/tag", inputs=text)[0], TEXTS[:40]))
    for spans, answer in zip(result, expected, strict=True):
        assert [(s["start"], s["end"], s["label"]) for s in spans] == [
            (s["start"], s["end"], s["label"]) for s in answer["spans"]
        ]
