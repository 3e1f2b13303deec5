"""Building an index: whole, resumed, repeated, changed, and refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, EmptyInput, InputError, SettingsError
from encodery.search import build as index_module
from encodery.search import writer as writer_module
from encodery.search.build import IndexSettings, build
from encodery.search.filters import parse
from encodery.search.index import SearchIndex
from encodery.search.passages import Passages
from encodery.search.searcher import Searcher
from encodery.search.store import Point
from encodery.search.update import add, compact, delete

SMALL = IndexSettings(passages=Passages(size=40))


def contents(folder: Path) -> dict[tuple[str, int], Point]:
    """(document, number) -> everything stored of it."""
    with SearchIndex(folder) as index:
        return {(p.document, p.number): p for batch in index.store.scan(vectors=True) for p in batch}


def assert_same(left: Path, right: Path) -> None:
    one, other = contents(left), contents(right)
    assert one.keys() == other.keys()
    for place, point in one.items():
        assert (point.text, point.payload) == (other[place].text, other[place].payload)
        np.testing.assert_allclose(point.dense, other[place].dense, atol=1e-5)


def test_every_word_has_its_offsets(rows: Path, tmp_path: Path, encoder: Any) -> None:
    built = build([rows], tmp_path / "index", encoder, SMALL)
    metrics = built.artifact.manifest.metrics
    assert built.is_new
    assert metrics["documents"] == 36
    assert metrics["passages"] > 36
    assert metrics["bytes"] > 0
    texts = {row["id"]: row["text"] for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines())}
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        for i in (0, 17, 35):
            best = searcher.search(f"mark{i}x0", top_k=1, mode="bm25").hits[0]
            assert best.document == f"doc{i}"
            assert best.text[: best.head].strip() == f"Title number {i}"
            assert texts[f"doc{i}"][best.start : best.end].strip() == best.text[best.head :]
            assert [best.text[a:b] for a, b in best.matches] == [f"mark{i}x0"]


def test_passages_cover_the_documents_without_overlap(rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", None, SMALL)
    parts: dict[str, list[tuple[int, int]]] = {}
    with SearchIndex(tmp_path / "index") as index:
        for batch in index.store.scan():
            for point in batch:
                parts.setdefault(point.document, []).append((point.payload["start"], point.payload["end"]))
    for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines()):
        ranges = sorted(parts[row["id"]])
        joined = "".join(row["text"][a:b] for a, b in ranges)
        assert joined.replace(" ", "") == row["text"].replace(" ", "")


def test_a_repeated_build_does_nothing_and_a_different_one_is_refused(
    rows: Path, tmp_path: Path, encoder: Any, other_encoder: Any
) -> None:
    build([rows], tmp_path / "index", encoder, SMALL, model_path=tmp_path / "here")
    encoder.encoded = 0
    assert not build([rows], tmp_path / "index", encoder, SMALL, model_path=tmp_path / "moved").is_new
    assert encoder.encoded == 0
    with pytest.raises(ArtifactError, match="other settings"):
        build([rows], tmp_path / "index", encoder, IndexSettings(passages=Passages(size=50)))
    with pytest.raises(ArtifactError, match="other model"):
        build([rows], tmp_path / "index", other_encoder, SMALL)
    assert build([rows], tmp_path / "index", None, SMALL, overwrite=True).is_new


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("killed_at", [1, 2, 4])
def test_an_interrupted_build_resumes(
    rows: Path, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    monkeypatch.setattr(writer_module, "PASSAGES_AT_ONCE", 40)
    build([rows], tmp_path / "whole", encoder, SMALL)
    marks = 0

    def kill(documents: int, passages: int) -> None:
        nonlocal marks
        marks += 1
        if marks == killed_at:
            raise Killed

    with pytest.raises(Killed):
        build([rows], tmp_path / "index", encoder, SMALL, progress=kill)
    assert not (tmp_path / "index").exists()
    seen: list[int] = []
    built = build([rows], tmp_path / "index", encoder, SMALL, progress=lambda documents, _: seen.append(documents))
    assert seen[0] > 0
    assert_same(tmp_path / "index", tmp_path / "whole")
    assert built.artifact.manifest.metrics["documents"] == 36
    assert not (tmp_path / "index" / "progress.json").exists()


def test_a_killed_process_resumes_to_the_same_index(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL between two batches: the same command resumes after what is stored and ends with the same index."""
    code = (
        "import os, signal, sys; from encodery.search import writer; from encodery.search.build import *\n"
        "from encodery.search.passages import Passages\n"
        "writer.PASSAGES_AT_ONCE = 10; die = len(sys.argv) > 3; took = []\n"
        "def mark(documents, passages):\n"
        "    took.append(documents)\n"
        "    if die and len(took) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "build([sys.argv[1]], sys.argv[2], None, IndexSettings(passages=Passages(size=40)), progress=mark)\n"
        "print(took[0])"
    )

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(rows), str(tmp_path / "index"), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    killed = run("die")
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "index").exists()
    second = run()
    assert second.returncode == 0, second.stderr
    monkeypatch.setattr(writer_module, "PASSAGES_AT_ONCE", 10)
    took: list[int] = []
    build([rows], tmp_path / "whole", None, SMALL, progress=lambda documents, _: took.append(documents))
    one, other = contents(tmp_path / "index"), contents(tmp_path / "whole")
    assert {place: (p.text, p.payload) for place, p in one.items()} == {
        place: (p.text, p.payload) for place, p in other.items()
    }
    assert int(second.stdout) == took[3]


def test_compacting_gives_back_room(rows: Path, tmp_path: Path) -> None:
    build([rows], tmp_path / "index", None, SMALL)
    with Searcher.open(tmp_path / "index") as index:
        gone = [f"doc{i}" for i in range(30)]
        index.index.store.delete_documents(gone)
        before, after = compact(index.index)
        assert before > 0
        assert after > 0
        assert [f.document for f in index.search("mark33x0", top_k=1).hits] == ["doc33"]
        assert index.search("mark3x0").hits == ()
    with SearchIndex(tmp_path / "index") as again:
        metrics = again.artifact.manifest.metrics
        assert (metrics["documents"], metrics["bytes"]) == (6, after)


def test_work_of_another_plan_is_not_taken_up(
    rows: Path, tmp_path: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PASSAGES_AT_ONCE", 40)

    def kill(documents: int, passages: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        build([rows], tmp_path / "index", encoder, SMALL, progress=kill)
    other = IndexSettings(passages=Passages(size=60))
    build([rows], tmp_path / "index", encoder, other)
    build([rows], tmp_path / "fresh", encoder, other)
    assert_same(tmp_path / "index", tmp_path / "fresh")


def test_a_later_document_of_the_same_id_replaces_the_earlier(tmp_path: Path, encoder: Any) -> None:
    file = tmp_path / "rows.jsonl"
    long = " ".join(f"old{i}." for i in range(90))
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": long},
        {"id": "b", "text": "other words"},
        {"id": "a", "text": "new text"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    built = build([file], tmp_path / "index", encoder, SMALL)
    assert built.artifact.manifest.metrics["documents"] == 2
    assert built.artifact.manifest.metrics["replaced"] == 1
    assert {point.text for point in contents(tmp_path / "index").values()} == {"new text", "other words"}


def test_add_replaces_and_delete_removes(rows: Path, tmp_path: Path, encoder: Any) -> None:
    build([rows], tmp_path / "index", encoder, SMALL)
    more = tmp_path / "more.jsonl"
    fresh = [{"id": "doc0", "text": "rewritten zebra"}, {"id": "new", "text": "okapi grazing", "year": 2050}]
    more.write_text("\n".join(map(json.dumps, fresh)), encoding="utf-8")
    with Searcher.open(tmp_path / "index", encoder) as index:
        counts = add(index.index, index.retrievers, [more])
        assert (counts["documents"], counts["replaced"]) == (2, 1)
        assert index.index.store.documents() == 37
        assert [f.document for f in index.search("zebra", mode="bm25").hits] == ["doc0"]
        assert index.search("mark0x0", mode="bm25").hits == ()
        assert index.search("grazing okapi", top_k=1).hits[0].document == "new"
        assert delete(index.index, ["doc1", "unknown"])["documents"] == 1
        assert delete(index.index, conditions=parse(["year>=2000"]))["documents"] == 1
        with pytest.raises(InputError, match="Nothing to delete"):
            delete(index.index)
    with SearchIndex(tmp_path / "index") as index:
        assert index.artifact.manifest.metrics["documents"] == index.store.documents() == 35


def test_folders_and_corpora(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.md").write_text("# Heading\n\nAlpha text here.", encoding="utf-8")
    (folder / "sub" / "two.txt").write_text("Beta text here.", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\x00\x01")
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "marks.txt").write_text("--- !!! ---", encoding="utf-8")
    built = build([folder], tmp_path / "index", None)
    assert built.skipped == {"document without words": 1}
    with Searcher.open(tmp_path / "index") as searcher:
        best = searcher.search("beta").hits[0]
        assert best.metadata["path"] == best.document == "sub/two.txt"
        assert searcher.search("alpha", conditions=parse(["path~one"])).hits[0].document == "one.md"
        assert searcher.search("alpha", conditions=parse(["path~two"])).hits == ()


@pytest.mark.parametrize(("text", "error"), [("", EmptyInput), ('{"id": "a", "text": "..."}', EmptyInput)])
def test_nothing_to_index(tmp_path: Path, encoder: Any, text: str, error: type[Exception]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(error):
        build([file], tmp_path / "index", encoder)
    with pytest.raises(InputError, match="Nothing to index"):
        build([], tmp_path / "index", encoder)
    assert not (tmp_path / "index").exists()


def test_what_is_damaged_or_missing_is_named(rows: Path, tmp_path: Path, encoder: Any, other_encoder: Any) -> None:
    folder = tmp_path / "index"
    build([rows], folder, encoder, SMALL, model_path=tmp_path / "gone")
    with pytest.raises(ArtifactError, match="another model"):
        Searcher.open(folder, other_encoder)
    with Searcher.open(folder) as searcher:
        assert searcher.search("violin", mode="bm25").hits
        with pytest.raises(ArtifactError, match=r"gone.*--model"):
            searcher.search("violin")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / index_module.FUSION).write_text("{}")
    with pytest.raises(ArtifactError, match=r"fusion\.json"):
        SearchIndex(tmp_path / "copy")
    with pytest.raises(ArtifactError, match="index"):
        SearchIndex(tmp_path)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="weight"):
        IndexSettings(weight=1.5)
    with pytest.raises(SettingsError, match="size"):
        Passages(size=2)
    with pytest.raises(SettingsError, match="overlap"):
        Passages(size=20, overlap=15)
