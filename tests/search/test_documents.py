"""The documents that are indexed: their ids, what is left out, and when the fingerprint changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encodery.base.errors import InputError
from encodery.search.documents import DocumentInput


def test_ids_are_those_of_rows_or_paths(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Alpha text.", encoding="utf-8")
    rows = [{"id": 7, "text": "first"}, {"_id": "x", "text": "second"}, {"text": "third"}, {"id": "", "text": "fourth"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    documents = {document.text: document.id for document in DocumentInput.open([tmp_path]).documents()}
    assert documents == {
        "Alpha text.": "a.txt",
        "first": "7",
        "second": "x",
        "third": "b.jsonl:2",
        "fourth": "b.jsonl:3",
    }


def test_metadata_has_the_source_and_the_columns(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"text": "one", "year": 1999}\n', encoding="utf-8")
    (document,) = DocumentInput.open([tmp_path / "b.jsonl"]).documents()
    assert document.metadata["year"] == 1999
    assert document.metadata["path"] == document.id == "b.jsonl"


def test_documents_without_a_word_are_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("--- !!! ---", encoding="utf-8")
    (tmp_path / "b.txt").write_text("words", encoding="utf-8")
    documents = DocumentInput.open([tmp_path])
    assert [document.id for document in documents.documents()] == ["b.txt"]
    assert documents.skipped == {"document without words": 1}


def test_the_fingerprint_follows_files_and_the_text_column(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    first = DocumentInput.open([tmp_path]).fingerprint
    assert DocumentInput.open([tmp_path]).fingerprint == first
    assert DocumentInput.open([tmp_path], text="body").fingerprint != first
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    assert DocumentInput.open([tmp_path]).fingerprint != first


def test_a_source_must_be_given_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Nothing to index"):
        DocumentInput.open([])
    with pytest.raises(InputError, match="nowhere"):
        DocumentInput.open([tmp_path / "nowhere"])
