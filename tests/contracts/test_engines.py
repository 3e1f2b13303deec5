"""What every search engine promises: one set of tests, whatever parts lie in the folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, InputError
from encodery.base.parts import find, names
from encodery.base.settings import decode, encode
from encodery.search.engine import Engine
from encodery.search.filters import parse
from encodery.search.store import Point, Store

WIDTH = 8
VECTORS = np.random.default_rng(0).standard_normal((24, WIDTH)).astype(np.float32)


def point(i: int, word: str = "") -> Point:
    """Passage i % 2 of document i // 2."""
    metadata = {"source": "odd" if i % 2 else "even", "year": 2000 + i, "grade": i / 4, "ok": i < 2, "a b.c": "x"}
    return Point(f"d{i // 2}", i % 2, f"Running word{i} {word}", VECTORS[i], {"metadata": metadata, "start": i})


def found(store: Store, query: str, limit: int = 5) -> list[str]:
    """Documents found by words, best first."""
    hits = store.by_words(query, limit)
    points = store.fetch([hit.id for hit in hits])
    return [points[hit.id].document for hit in hits]


@pytest.fixture(params=names(Engine))
def engine(request: pytest.FixtureRequest) -> Engine:
    return find(Engine, request.param)()


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[Store]:
    with engine.create(tmp_path / "store", WIDTH) as store:
        store.upsert([point(i) for i in range(24)])
        yield store


def test_finds_by_vector_exactly(store: Store) -> None:
    query = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    hits = store.by_vector(query, 5)
    best = np.argsort(-(VECTORS @ query))[:5]
    assert [hit.id for hit in hits] == [point(i).id for i in best]
    assert [hit.score for hit in hits] == pytest.approx((VECTORS @ query)[best], abs=1e-5)
    first = store.fetch([hits[0].id, str(uuid.uuid4())])
    assert list(first) == [hits[0].id]
    assert first[hits[0].id].payload["start"] == best[0]
    assert first[hits[0].id].text == point(int(best[0])).text


def test_finds_by_words_and_only_those_that_hold_one(store: Store) -> None:
    assert found(store, "WORD7, please") == ["d3"]
    assert len(store.by_words("runs", 50)) == 24
    assert store.by_words("absent", 5) == []
    assert store.by_words("", 5) == []
    assert store.by_words("?!", 5) == []


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
    assert len(store.by_words("running", 50, conditions)) == expected
    assert len(store.by_vector(VECTORS[0], 50, conditions)) == expected


def test_scores_among_given_points(store: Store) -> None:
    wanted = [point(3).id, point(9).id, str(uuid.uuid4())]
    assert {hit.id for hit in store.by_vector(VECTORS[0], 10, among=wanted)} == set(wanted[:2])
    assert {hit.id for hit in store.by_words("word9", 10, among=wanted)} == {wanted[1]}
    assert store.by_words("running", 10, among=[]) == []


def test_a_known_id_is_replaced(store: Store) -> None:
    store.upsert([point(3, "brandnew")])
    assert store.count() == 24
    assert found(store, "brandnew") == ["d1"]
    assert store.fetch([point(3).id])[point(3).id].text.endswith("brandnew")


def test_deletes_documents_and_by_condition(store: Store) -> None:
    store.delete_documents(["d3", "unknown"])
    assert (store.count(), store.documents()) == (22, 11)
    assert store.by_words("word7", 5) == []
    assert store.delete_where(parse(["year>=2020"])) == 4
    assert (store.count(), store.documents()) == (18, 9)
    with pytest.raises(InputError, match="at least one condition"):
        store.delete_where([])
    store.settle()
    assert store.count() == 18


def test_every_point_comes_back_whole(store: Store) -> None:
    everything = {p.id: p for batch in store.all(batch=7, vectors=True) for p in batch}
    assert set(everything) == {point(i).id for i in range(24)}
    same = everything[point(5).id]
    assert (same.document, same.number, same.text) == ("d2", 1, point(5).text)
    np.testing.assert_allclose(same.vector, VECTORS[5], rtol=1e-6)
    assert same.payload["metadata"]["year"] == 2005


def test_survives_closing_and_refuses_a_second_creation(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with engine.create(folder, WIDTH) as store:
        store.upsert([point(i) for i in range(4)])
    with pytest.raises(InputError, match="already"):
        engine.create(folder, WIDTH)
    with engine.open(folder) as store:
        assert store.count() == 4
        assert found(store, "word2") == ["d1"]


def test_what_cannot_be_stored_or_asked_is_refused(engine: Engine, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vector"):
        store.upsert([Point("x", 0, "text", np.zeros(WIDTH + 1, np.float32))])
    with pytest.raises(InputError, match="vector"):
        store.upsert([Point("x", 0, "text", None)])
    with pytest.raises(InputError, match="finite"):
        store.upsert([Point("x", 0, "text", np.full(WIDTH, np.nan, np.float32))])
    with pytest.raises(InputError, match="width"):
        store.by_vector(np.zeros(WIDTH + 1, np.float32), 1)
    with pytest.raises(ArtifactError, match="no store"):
        engine.open(tmp_path / "nothing")


def test_words_alone(engine: Engine, tmp_path: Path) -> None:
    with engine.create(tmp_path / "words", None) as store:
        store.upsert([Point("a", 0, "only words", None)])
        assert found(store, "words") == ["a"]
        with pytest.raises(InputError, match="without vectors"):
            store.by_vector(np.zeros(WIDTH, np.float32), 1)


def test_settings_round_trip(engine: Engine) -> None:
    assert decode(Engine, encode(engine)) == engine
