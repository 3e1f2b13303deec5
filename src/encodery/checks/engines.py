"""Checks of search engines, on stores of up to 24 passages, and of 400 where vectors are stored with fewer bits.

Shapes: H dimension of a dense vector, n tokens of a passage, K dimension of a token's vector."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from encodery.base.errors import ArtifactError, InputError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.search.engine import SearchEngine
from encodery.search.filters import parse
from encodery.search.store import Fields, Hit, Point, Precision, SparseVector, Store

DENSE_DIM, TOKEN_DIM = 8, 4
VECTORS = np.random.default_rng(0).standard_normal((24, DENSE_DIM)).astype(np.float32)
TERMS = [
    SparseVector(np.array([i % 5, 5 + i % 3, 100 + i]), np.array([0.5 + i, 1.5, 2.0], np.float32)) for i in range(12)
]
TOKENS = [np.random.default_rng(i).standard_normal((2 + i % 4, TOKEN_DIM)).astype(np.float32) for i in range(12)]
CONDITIONS: tuple[tuple[list[str], int], ...] = (
    (["source=odd"], 12),
    (["source=odd,even"], 24),
    (["source!=odd"], 12),
    (["source~eve"], 12),
    (["year>=2020"], 4),
    (["year<2004"], 4),
    (["year>2004", "year<=2006"], 2),
    (["year=2003"], 1),
    (["grade=0.75"], 1),
    (["ok=true"], 2),
    (["a b.c=x"], 24),
    (["document=d3"], 2),
    (["absent=1"], 0),
    (["source=odd", "year<2004"], 2),
)
"""Conditions, and how many of the 24 passages fulfil them."""
ENGLISH = "The anchor of the ship was in the harbour, and the word for it is not the same as that for the rudder."
"""A text by which an engine finds the language of the passages, if that is left to it."""
RECALLS: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.99, "int8": 0.9, "binary": 0.95}
"""The smallest mean fraction of the ten nearest vectors that a search must return, by precision."""


def point(i: int, word: str = "") -> Point:
    """Return passage i % 2 of document i // 2."""
    metadata = {"source": "odd" if i % 2 else "even", "year": 2000 + i, "grade": i / 4, "ok": i < 2, "a b.c": "x"}
    return Point(f"d{i // 2}", i % 2, f"Running word{i} {word}", VECTORS[i], {"metadata": metadata, "start": i})


@contextlib.contextmanager
def example(part: SearchEngine) -> Iterator[Store]:
    """Open a store of 24 passages with dense vectors, in English."""
    fields, engine = Fields(dense_dim=DENSE_DIM), part.for_texts([ENGLISH])
    with tempfile.TemporaryDirectory() as folder, engine.create(Path(folder) / "store", fields) as store:
        store.upsert([point(i) for i in range(24)])
        yield store


@contextlib.contextmanager
def example_of_all_fields(part: SearchEngine) -> Iterator[Store]:
    """Open a store of 12 passages with every kind of field, which was closed before."""
    fields = Fields(dense_dim=DENSE_DIM, sparse=True, multi_vector_dim=TOKEN_DIM)
    with tempfile.TemporaryDirectory() as folder:
        with part.create(Path(folder) / "store", fields) as store:
            store.upsert([replace(point(i), sparse=TERMS[i], multi_vector=TOKENS[i]) for i in range(12)])
        with part.open(Path(folder) / "store") as store:
            yield store


def documents_by_bm25(store: Store, query: str, limit: int = 5) -> list[str]:
    """Return the documents that BM25 returns for a query, best first."""
    hits = store.search_bm25(query, limit)
    points = store.fetch([hit.id for hit in hits])
    return [points[hit.id].document for hit in hits]


def assert_scores(hits: Sequence[Hit], expected: Mapping[str, float], rtol: float = 1e-5, atol: float = 0.0) -> None:
    """Raise `AssertionError` unless the hits are those of `expected`, with its scores, best first."""
    assert {hit.id for hit in hits} == set(expected), "other passages were returned"
    scores = [hit.score for hit in hits]
    np.testing.assert_allclose(scores, [expected[hit.id] for hit in hits], rtol=rtol, atol=atol)
    assert scores == sorted(scores, reverse=True), "the best hit is not the first"


def ids(hits: Sequence[Hit]) -> set[str]:
    """Return the ids of hits."""
    return {hit.id for hit in hits}


def max_sim(query: np.ndarray, tokens: np.ndarray) -> float:
    """Return the sum over the query's vectors of the largest inner product with one of `tokens`."""
    return float((query @ tokens.T).max(axis=1).sum())


def check_settings_round_trip(part: SearchEngine) -> None:
    """The part is what its settings decode to."""
    assert decode(SearchEngine, encode(part)) == part


def check_dense_search_is_exact(part: SearchEngine) -> None:
    """Dense search returns the largest inner products, and `fetch` the passages with their payload."""
    query = np.random.default_rng(1).standard_normal(DENSE_DIM).astype(np.float32)
    best = np.argsort(-(VECTORS @ query))[:5].tolist()
    with example(part) as store:
        hits = store.search_dense(query, 5)
        assert [hit.id for hit in hits] == [point(i).id for i in best]
        np.testing.assert_allclose([hit.score for hit in hits], (VECTORS @ query)[best], rtol=1e-6, atol=1e-5)
        first = store.fetch([hits[0].id, str(uuid.uuid4())])
        assert list(first) == [hits[0].id], "an unknown id was fetched"
        assert first[hits[0].id].payload["start"] == best[0]
        assert first[hits[0].id].text == point(best[0]).text


def check_bm25_search(part: SearchEngine) -> None:
    """BM25 ignores case and marks, stems, and returns only passages with a term of the query."""
    with example(part) as store:
        assert documents_by_bm25(store, "WORD7, please") == ["d3"]
        assert len(store.search_bm25("runs", 50)) == 24
        for query in ("absent", "", "?!"):
            assert store.search_bm25(query, 5) == [], f"'{query}' has hits"


def check_repeated_query_terms(part: SearchEngine) -> None:
    """A term counts as often as it is in the query."""
    passages = [Point(f"d{i}", 0, f"harbour {'anchor' if i < 6 else 'rudder'} word{i}", None) for i in range(9)]
    engine = part.for_texts([ENGLISH])
    with tempfile.TemporaryDirectory() as folder, engine.create(Path(folder) / "store", Fields()) as store:
        store.upsert(passages)
        once, other = ({hit.id: hit.score for hit in store.search_bm25(query, 9)} for query in ("anchors", "rudder"))
        mixed = store.search_bm25("anchor rudder anchor, ANCHORS", 9)
        assert_scores(mixed, {name: 3 * score for name, score in once.items()} | other)
        assert store.search_bm25("rudder anchor anchor anchor anchor", 1)[0].id in once
        assert store.search_bm25("rudder anchor", 1)[0].id in other


def check_conditions(part: SearchEngine) -> None:
    """`count` and all searches are restricted to the passages that fulfil all conditions."""
    with example(part) as store:
        for written, expected in CONDITIONS:
            conditions = parse(written)
            for name, count in (
                ("count", store.count(conditions)),
                ("search_bm25", len(store.search_bm25("running", 50, conditions))),
                ("search_dense", len(store.search_dense(VECTORS[0], 50, conditions))),
            ):
                assert count == expected, f"{name} under {' and '.join(written)} gives {count}, not {expected}"


def check_among(part: SearchEngine) -> None:
    """With `among`, a search returns only passages with one of these ids."""
    with example(part) as store:
        some = [point(3).id, point(9).id, str(uuid.uuid4())]
        assert ids(store.search_dense(VECTORS[0], 10, among=some)) == set(some[:2])
        assert ids(store.search_bm25("word9", 10, among=some)) == {some[1]}
        assert store.search_bm25("running", 10, among=[]) == []


def check_known_ids_are_replaced(part: SearchEngine) -> None:
    """A passage that is stored again replaces the old one."""
    with example(part) as store:
        store.upsert([point(3, "brandnew")])
        assert store.count() == 24
        assert documents_by_bm25(store, "brandnew") == ["d1"]
        assert store.fetch([point(3).id])[point(3).id].text.endswith("brandnew")


def check_deletion(part: SearchEngine) -> None:
    """Documents are deleted by id and by condition; no condition at all raises `InputError`."""
    with example(part) as store:
        store.delete_documents(["d3", "unknown"])
        assert (store.count(), store.documents()) == (22, 11)
        assert store.search_bm25("word7", 5) == []
        assert store.delete_where(parse(["year>=2020"])) == 4
        assert (store.count(), store.documents()) == (18, 9)
        assert "at least one condition" in raised_message(InputError, lambda: store.delete_where([]))
        store.compact()
        assert store.count() == 18


def check_scan(part: SearchEngine) -> None:
    """`scan` yields every passage once, with its vector, number and payload."""
    with example(part) as store:
        points = [one for batch in store.scan(batch=7, vectors=True) for one in batch]
        assert sorted(one.id for one in points) == sorted(point(i).id for i in range(24))
        same = next(one for one in points if one.id == point(5).id)
        assert (same.document, same.number, same.text) == ("d2", 1, point(5).text)
        assert same.dense is not None
        np.testing.assert_allclose(same.dense, VECTORS[5], rtol=1e-6)
        assert same.payload["metadata"]["year"] == 2005


def check_reopening(part: SearchEngine) -> None:
    """A store is complete after it was closed, and is not created a second time in its folder."""
    fields = Fields(dense_dim=DENSE_DIM)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        with part.create(folder, fields) as store:
            store.upsert([point(i) for i in range(4)])
        assert "already" in raised_message(InputError, lambda: part.create(folder, fields))
        with part.open(folder) as store:
            assert store.count() == 4
            assert documents_by_bm25(store, "word2") == ["d1"]
        assert "no store" in raised_message(ArtifactError, lambda: part.open(Path(name) / "nothing"))


def check_unusable_vectors_are_refused(part: SearchEngine) -> None:
    """A dense vector that is missing, of another dimension or not finite raises `InputError`."""
    with example(part) as store:
        for vector, message in (
            (np.zeros(DENSE_DIM + 1, np.float32), "vector"),
            (None, "vector"),
            (np.full(DENSE_DIM, np.nan, np.float32), "finite"),
        ):
            upsert = functools.partial(store.upsert, [Point("x", 0, "text", vector)])
            assert message in raised_message(InputError, upsert)
        longer = np.zeros(DENSE_DIM + 1, np.float32)
        assert "dimension" in raised_message(InputError, lambda: store.search_dense(longer, 1))


def check_fields_that_are_not_stored(part: SearchEngine) -> None:
    """A store for BM25 alone needs no vectors; a search of a field that is not stored raises `InputError`."""
    with tempfile.TemporaryDirectory() as folder, part.create(Path(folder) / "store", Fields()) as store:
        store.upsert([Point("a", 0, "only words", None)])
        assert documents_by_bm25(store, "words") == ["a"]
        dense = np.zeros(DENSE_DIM, np.float32)
        assert "without vectors" in raised_message(InputError, lambda: store.search_dense(dense, 1))
    with example(part) as store:
        assert "without learned sparse" in raised_message(InputError, lambda: store.search_sparse(TERMS[0], 1))
        assert "without multi-vector" in raised_message(InputError, lambda: store.search_multi_vector(TOKENS[0], 1))


def check_sparse_search_is_exact(part: SearchEngine) -> None:
    """Sparse search returns the passages with a common term, with their inner products."""
    query = SparseVector(np.array([2, 6, 107, 9999]), np.array([1.0, 2.0, 3.0, 4.0], np.float32))
    weights = dict(zip(query.term_ids.tolist(), query.weights.tolist(), strict=True))
    products = {
        point(i).id: sum(weights.get(term, 0.0) * w for term, w in zip(one.term_ids, one.weights, strict=True))
        for i, one in enumerate(TERMS)
    }
    expected = {name: score for name, score in products.items() if score}
    best = sorted(expected, key=lambda name: -expected[name])
    empty = SparseVector(np.zeros(0, np.int64), np.zeros(0, np.float32))
    with example_of_all_fields(part) as store:
        assert_scores(store.search_sparse(query, 50), expected)
        assert store.search_sparse(query, 1)[0].id == best[0]
        assert ids(store.search_sparse(query, 9, among=best[1:3])) == set(best[1:3])
        assert store.search_sparse(empty, 5) == []


def check_multi_vector_search_is_exact(part: SearchEngine) -> None:
    """Multi-vector search returns passages by MaxSim, also under conditions and among some ids."""
    query = np.random.default_rng(99).standard_normal((3, TOKEN_DIM)).astype(np.float32)
    expected = {point(i).id: max_sim(query, tokens) for i, tokens in enumerate(TOKENS)}
    odd = {point(i).id for i in range(1, 12, 2)}
    with example_of_all_fields(part) as store:
        hits = store.search_multi_vector(query, 50)
        assert_scores(hits, expected, rtol=1e-4, atol=1e-4)
        assert [hit.id for hit in hits] == sorted(expected, key=lambda name: -expected[name])
        assert ids(store.search_multi_vector(query, 50, parse(["source=odd"]))) == odd
        assert ids(store.search_multi_vector(query, 9, among=[point(3).id])) == {point(3).id}


def check_all_fields_are_returned(part: SearchEngine) -> None:
    """`scan` yields all vectors as they were stored; a passage that lacks a field is refused."""
    with example_of_all_fields(part) as store:
        points = {one.id: one for batch in store.scan(batch=5, vectors=True) for one in batch}
        for i in range(12):
            stored = points[point(i).id]
            assert stored.sparse is not None
            assert stored.multi_vector is not None
            assert stored.dense is not None
            np.testing.assert_array_equal(stored.sparse.term_ids, TERMS[i].term_ids)
            np.testing.assert_allclose(stored.sparse.weights, TERMS[i].weights, rtol=1e-6)
            np.testing.assert_allclose(stored.multi_vector, TOKENS[i], rtol=1e-6)
            np.testing.assert_allclose(stored.dense, VECTORS[i], rtol=1e-6)
        wider = np.zeros((2, TOKEN_DIM + 1), np.float32)
        without_terms = replace(point(1), multi_vector=TOKENS[1])
        wrong_dimension = replace(point(1), sparse=TERMS[1], multi_vector=wider)
        assert "sparse vector" in raised_message(InputError, lambda: store.upsert([without_terms]))
        assert "token vectors" in raised_message(InputError, lambda: store.upsert([wrong_dimension]))
        assert f"dimension {TOKEN_DIM}" in raised_message(InputError, lambda: store.search_multi_vector(wider, 1))


def check_precisions(part: SearchEngine) -> None:
    """Searches of vectors that are stored with fewer bits return nearly what a search of fp32 returns."""
    draw = np.random.default_rng(6)
    vectors, queries = _clustered(draw, 400), _clustered(draw, 30)
    points = [Point(f"d{i}", 0, "text", row, {"metadata": {"even": i % 2 == 0}}) for i, row in enumerate(vectors)]
    points = [replace(one, multi_vector=TOKENS[i % 12]) for i, one in enumerate(points)]
    for precision, recall in RECALLS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "store"
            fields = Fields(dense_dim=48, multi_vector_dim=TOKEN_DIM, precision=precision)
            with part.create(folder, fields) as store:
                store.upsert(points)
                store.compact()
            with part.open(folder) as store:
                measured = np.mean([_recall_at_10(store, points, query) for query in queries])
                assert measured >= recall, f"{precision}: {measured} of the ten nearest vectors are returned"
                _check_compressed(store, points, queries[0])


def _clustered(draw: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, 48) unit vectors about twelve centres."""
    centres = np.random.default_rng(5).standard_normal((12, 48))
    spread = centres[draw.integers(0, 12, count)] + 0.5 * draw.standard_normal((count, 48))
    unit: np.ndarray = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _recall_at_10(store: Store, points: Sequence[Point], query: np.ndarray) -> float:
    scores = {one.id: float(one.dense @ query) for one in points if one.dense is not None}
    hits = store.search_dense(query, 10)
    assert_scores(hits, {hit.id: scores[hit.id] for hit in hits}, rtol=0, atol=0.02)
    return len(ids(hits) & set(sorted(scores, key=lambda name: -scores[name])[:10])) / 10


def _check_compressed(store: Store, points: Sequence[Point], query: np.ndarray) -> None:
    even = {one.id for one in points[::2]}
    assert ids(store.search_dense(query, 50, parse(["even=true"]))) <= even
    few = [one.id for one in points[:7]]
    assert ids(store.search_dense(query, 7, among=few)) == set(few)
    by_tokens = {hit.id: hit.score for hit in store.search_multi_vector(TOKENS[3], 400)}
    np.testing.assert_allclose(by_tokens[points[3].id], max_sim(TOKENS[3], TOKENS[3]), rtol=0.02)
    stored = {one.id: one for batch in store.scan(vectors=True) for one in batch}[points[0].id]
    assert stored.dense is not None
    assert points[0].dense is not None
    np.testing.assert_allclose(stored.dense, points[0].dense, atol=0.02)
    store.upsert([replace(points[0], dense=-points[0].dense, multi_vector=TOKENS[0])])
    assert points[0].id not in ids(store.search_dense(points[0].dense, 10)), "an old vector is still searched"
