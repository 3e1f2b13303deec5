"""What every search engine promises: one set of tests, whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, InputError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.search.engine import SearchEngine
from encodery.search.filters import parse
from encodery.search.store import Fields, Point, Precision, SparseVector, Store

WIDTH = 8
VECTORS = np.random.default_rng(0).standard_normal((24, WIDTH)).astype(np.float32)


def point(i: int, word: str = "") -> Point:
    """Passage i % 2 of document i // 2."""
    metadata = {"source": "odd" if i % 2 else "even", "year": 2000 + i, "grade": i / 4, "ok": i < 2, "a b.c": "x"}
    return Point(f"d{i // 2}", i % 2, f"Running word{i} {word}", VECTORS[i], {"metadata": metadata, "start": i})


def found(store: Store, query: str, limit: int = 5) -> list[str]:
    """Documents found by words, best first."""
    hits = store.search_bm25(query, limit)
    points = store.fetch([hit.id for hit in hits])
    return [points[hit.id].document for hit in hits]


@pytest.fixture(params=part_names(SearchEngine))
def engine(request: pytest.FixtureRequest) -> SearchEngine:
    return find_part(SearchEngine, request.param)()


@pytest.fixture
def store(engine: SearchEngine, tmp_path: Path) -> Iterator[Store]:
    with engine.create(tmp_path / "store", Fields(dense_dim=WIDTH)) as store:
        store.upsert([point(i) for i in range(24)])
        yield store


def test_finds_by_vector_exactly(store: Store) -> None:
    query = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    hits = store.search_dense(query, 5)
    best = np.argsort(-(VECTORS @ query))[:5]
    assert [hit.id for hit in hits] == [point(i).id for i in best]
    assert [hit.score for hit in hits] == pytest.approx((VECTORS @ query)[best], abs=1e-5)
    first = store.fetch([hits[0].id, str(uuid.uuid4())])
    assert list(first) == [hits[0].id]
    assert first[hits[0].id].payload["start"] == best[0]
    assert first[hits[0].id].text == point(int(best[0])).text


def test_finds_by_words_and_only_those_that_hold_one(store: Store) -> None:
    assert found(store, "WORD7, please") == ["d3"]
    assert len(store.search_bm25("runs", 50)) == 24
    assert store.search_bm25("absent", 5) == []
    assert store.search_bm25("", 5) == []
    assert store.search_bm25("?!", 5) == []


def test_a_word_counts_as_often_as_it_stands_in_the_query(engine: SearchEngine, tmp_path: Path) -> None:
    with engine.create(tmp_path / "words", Fields()) as store:
        store.upsert([Point(f"d{i}", 0, f"harbour {'anchor' if i < 6 else 'rudder'} word{i}", None) for i in range(9)])

        def scores(query: str) -> dict[str, float]:
            return {hit.id: hit.score for hit in store.search_bm25(query, 9)}

        once, other = scores("anchors"), scores("rudder")
        mixed = scores("anchor rudder anchor, ANCHORS")
        assert mixed == pytest.approx({name: 3 * score for name, score in once.items()} | other, rel=1e-5)
        assert store.search_bm25("rudder anchor anchor anchor anchor", 1)[0].id in once
        assert store.search_bm25("rudder anchor", 1)[0].id in other


@pytest.mark.parametrize(
    ("written", "expected"),
    [
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
    ],
)
def test_conditions(store: Store, written: list[str], expected: int) -> None:
    conditions = parse(written)
    assert store.count(conditions) == expected
    assert len(store.search_bm25("running", 50, conditions)) == expected
    assert len(store.search_dense(VECTORS[0], 50, conditions)) == expected


def test_scores_among_given_points(store: Store) -> None:
    wanted = [point(3).id, point(9).id, str(uuid.uuid4())]
    assert {hit.id for hit in store.search_dense(VECTORS[0], 10, among=wanted)} == set(wanted[:2])
    assert {hit.id for hit in store.search_bm25("word9", 10, among=wanted)} == {wanted[1]}
    assert store.search_bm25("running", 10, among=[]) == []


def test_a_known_id_is_replaced(store: Store) -> None:
    store.upsert([point(3, "brandnew")])
    assert store.count() == 24
    assert found(store, "brandnew") == ["d1"]
    assert store.fetch([point(3).id])[point(3).id].text.endswith("brandnew")


def test_deletes_documents_and_by_condition(store: Store) -> None:
    store.delete_documents(["d3", "unknown"])
    assert (store.count(), store.documents()) == (22, 11)
    assert store.search_bm25("word7", 5) == []
    assert store.delete_where(parse(["year>=2020"])) == 4
    assert (store.count(), store.documents()) == (18, 9)
    with pytest.raises(InputError, match="at least one condition"):
        store.delete_where([])
    store.compact()
    assert store.count() == 18


def test_every_point_comes_back_whole(store: Store) -> None:
    everything = {p.id: p for batch in store.scan(batch=7, vectors=True) for p in batch}
    assert set(everything) == {point(i).id for i in range(24)}
    same = everything[point(5).id]
    assert (same.document, same.number, same.text) == ("d2", 1, point(5).text)
    np.testing.assert_allclose(same.dense, VECTORS[5], rtol=1e-6)
    assert same.payload["metadata"]["year"] == 2005


def test_survives_closing_and_refuses_a_second_creation(engine: SearchEngine, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with engine.create(folder, Fields(dense_dim=WIDTH)) as store:
        store.upsert([point(i) for i in range(4)])
    with pytest.raises(InputError, match="already"):
        engine.create(folder, Fields(dense_dim=WIDTH))
    with engine.open(folder) as store:
        assert store.count() == 4
        assert found(store, "word2") == ["d1"]


def test_what_cannot_be_stored_or_asked_is_refused(engine: SearchEngine, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vector"):
        store.upsert([Point("x", 0, "text", np.zeros(WIDTH + 1, np.float32))])
    with pytest.raises(InputError, match="vector"):
        store.upsert([Point("x", 0, "text", None)])
    with pytest.raises(InputError, match="finite"):
        store.upsert([Point("x", 0, "text", np.full(WIDTH, np.nan, np.float32))])
    with pytest.raises(InputError, match="dimension"):
        store.search_dense(np.zeros(WIDTH + 1, np.float32), 1)
    with pytest.raises(ArtifactError, match="no store"):
        engine.open(tmp_path / "nothing")


def test_words_alone(engine: SearchEngine, tmp_path: Path) -> None:
    with engine.create(tmp_path / "words", Fields()) as store:
        store.upsert([Point("a", 0, "only words", None)])
        assert found(store, "words") == ["a"]
        with pytest.raises(InputError, match="without vectors"):
            store.search_dense(np.zeros(WIDTH, np.float32), 1)


TERMS = [
    SparseVector(np.array([i % 5, 5 + i % 3, 100 + i]), np.array([0.5 + i, 1.5, 2.0], np.float32)) for i in range(12)
]
TOKENS = [np.random.default_rng(i).standard_normal((2 + i % 4, 4)).astype(np.float32) for i in range(12)]


@pytest.fixture
def whole(engine: SearchEngine, tmp_path: Path) -> Iterator[Store]:
    """A store of every kind of field, of 12 passages, closed and opened again."""
    fields = Fields(dense_dim=WIDTH, sparse=True, multi_vector_dim=4)
    with engine.create(tmp_path / "whole", fields) as store:
        points = (point(i) for i in range(12))
        rows = [dataclasses.replace(p, sparse=TERMS[i], multi_vector=TOKENS[i]) for i, p in enumerate(points)]
        store.upsert(rows)
    with engine.open(tmp_path / "whole") as store:
        yield store


def test_finds_by_learned_words_exactly(whole: Store) -> None:
    query = SparseVector(np.array([2, 6, 107, 9999]), np.array([1.0, 2.0, 3.0, 4.0], np.float32))
    asked = dict(zip(query.term_ids.tolist(), query.weights.tolist(), strict=True))
    truth = {
        point(i).id: sum(asked.get(w, 0.0) * v for w, v in zip(terms.term_ids, terms.weights, strict=True))
        for i, terms in enumerate(TERMS)
    }
    truth = {name: score for name, score in truth.items() if score}
    assert len(truth) < 12
    assert {hit.id: hit.score for hit in whole.search_sparse(query, 50)} == pytest.approx(truth, rel=1e-5)
    best = sorted(truth, key=lambda name: -truth[name])
    assert whole.search_sparse(query, 1)[0].id == best[0]
    assert {hit.id for hit in whole.search_sparse(query, 9, among=best[1:3])} == set(best[1:3])
    assert whole.search_sparse(SparseVector(np.zeros(0, np.int64), np.zeros(0, np.float32)), 5) == []


def test_finds_by_vectors_of_tokens_exactly(whole: Store) -> None:
    query = np.random.default_rng(99).standard_normal((3, 4)).astype(np.float32)
    truth = {point(i).id: float((query @ rows.T).max(axis=1).sum()) for i, rows in enumerate(TOKENS)}
    hits = whole.search_multi_vector(query, 50)
    assert {hit.id: hit.score for hit in hits} == pytest.approx(truth, rel=1e-4, abs=1e-4)
    assert [hit.id for hit in hits] == sorted(truth, key=lambda name: -truth[name])
    odd = {point(i).id for i in range(1, 12, 2)}
    assert {hit.id for hit in whole.search_multi_vector(query, 50, parse(["source=odd"]))} == odd
    assert {hit.id for hit in whole.search_multi_vector(query, 9, among=[point(3).id])} == {point(3).id}


def test_every_field_comes_back_and_is_checked(whole: Store) -> None:
    everything = {p.id: p for batch in whole.scan(batch=5, vectors=True) for p in batch}
    for i in range(12):
        held = everything[point(i).id]
        assert held.sparse is not None
        np.testing.assert_array_equal(held.sparse.term_ids, TERMS[i].term_ids)
        np.testing.assert_allclose(held.sparse.weights, TERMS[i].weights, rtol=1e-6)
        np.testing.assert_allclose(held.multi_vector, TOKENS[i], rtol=1e-6)
        np.testing.assert_allclose(held.dense, VECTORS[i], rtol=1e-6)
    with pytest.raises(InputError, match="sparse vector"):
        whole.upsert([dataclasses.replace(point(1), multi_vector=TOKENS[1])])
    with pytest.raises(InputError, match="token vectors"):
        whole.upsert([dataclasses.replace(point(1), sparse=TERMS[1], multi_vector=np.zeros((2, 5), np.float32))])
    with pytest.raises(InputError, match="dimension 4"):
        whole.search_multi_vector(np.zeros((2, 5), np.float32), 1)


def test_fields_that_are_not_there_cannot_be_asked(store: Store) -> None:
    with pytest.raises(InputError, match="without learned sparse"):
        store.search_sparse(TERMS[0], 1)
    with pytest.raises(InputError, match="without multi-vector"):
        store.search_multi_vector(TOKENS[0], 1)


CENTRES = np.random.default_rng(5).standard_normal((12, 48))
DRAWN = np.random.default_rng(6)


def clustered(count: int) -> np.ndarray:
    """(count, 48) unit vectors about twelve centres."""
    spread = CENTRES[DRAWN.integers(0, 12, count)] + 0.5 * DRAWN.standard_normal((count, 48))
    unit: np.ndarray = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1.0), ("fp16", 0.99), ("int8", 0.9), ("binary", 0.95)])
def test_vectors_of_every_precision_find_what_float32_finds(
    engine: SearchEngine, tmp_path: Path, precision: Precision, least: float
) -> None:
    vectors, queries = clustered(400), clustered(30)
    fields = Fields(dense_dim=48, multi_vector_dim=4, precision=precision)
    points = [Point(f"d{i}", 0, "text", row, {"metadata": {"even": i % 2 == 0}}) for i, row in enumerate(vectors)]
    with engine.create(tmp_path / "store", fields) as store:
        store.upsert([dataclasses.replace(p, multi_vector=TOKENS[i % 12]) for i, p in enumerate(points)])
        store.compact()
    with engine.open(tmp_path / "store") as store:
        right = []
        for query in queries:
            scores = {point.id: float(score) for point, score in zip(points, vectors @ query, strict=True)}
            hits = store.search_dense(query, 10)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            assert [hit.score for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=0.02)
            right.append(len({hit.id for hit in hits} & set(sorted(scores, key=lambda name: -scores[name])[:10])) / 10)
        assert np.mean(right) >= least
        even = {point.id for point in points[::2]}
        assert {hit.id for hit in store.search_dense(queries[0], 50, parse(["even=true"]))} <= even
        few = [point.id for point in points[:7]]
        assert {hit.id for hit in store.search_dense(queries[0], 7, among=few)} == set(few)
        late = {hit.id: hit.score for hit in store.search_multi_vector(TOKENS[3], 400)}
        own = float((TOKENS[3] @ TOKENS[3].T).max(axis=1).sum())
        assert late[points[3].id] == pytest.approx(own, rel=0.02)
        back = {p.id: p for batch in store.scan(vectors=True) for p in batch}
        np.testing.assert_allclose(back[points[0].id].dense, vectors[0], atol=0.02)
        store.upsert([dataclasses.replace(points[0], dense=-vectors[0], multi_vector=TOKENS[0])])
        assert points[0].id not in {hit.id for hit in store.search_dense(vectors[0], 10)}


def test_settings_round_trip(engine: SearchEngine) -> None:
    assert decode(SearchEngine, encode(engine)) == engine
