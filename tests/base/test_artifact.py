"""Artifacts appear complete or not at all, and detect alterations."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from encodery.base.artifact import FORMAT, Artifact, atomic_write, create_artifact, seal
from encodery.base.errors import ArtifactError, DiskFull, InputError


def make(path: Path, text: str = "hello", **extra: Any) -> Artifact:
    with create_artifact(path, "thing", {"a": 1}, **extra) as draft:
        (draft.path / "sub").mkdir(exist_ok=True)
        (draft.path / "sub" / "data.txt").write_text(text)
        draft.metrics["size"] = len(text)
    return Artifact.open(path, "thing")


def test_round_trip_with_parents_and_metrics(tmp_path: Path) -> None:
    parent = make(tmp_path / "parent")
    child = make(tmp_path / "child", "other", parents={"source": parent})
    assert child.manifest.parents["source"]["fingerprint"] == parent.manifest.fingerprint
    assert child.manifest.metrics == {"size": 5}
    child.verify()
    updated = child.add_metrics({"ndcg": 0.5})
    assert Artifact.open(tmp_path / "child").manifest.metrics == {"size": 5, "ndcg": 0.5}
    assert updated.manifest.fingerprint == child.manifest.fingerprint


def test_fingerprint_depends_on_contents_only(tmp_path: Path) -> None:
    first, same, other = make(tmp_path / "a"), make(tmp_path / "b"), make(tmp_path / "c", "hullo")
    assert first.manifest.fingerprint == same.manifest.fingerprint != other.manifest.fingerprint


def test_alterations_are_reported(tmp_path: Path) -> None:
    artifact = make(tmp_path / "a")
    file = tmp_path / "a" / "sub" / "data.txt"
    file.write_text("hallo")
    with pytest.raises(ArtifactError, match=r"data\.txt: its content"):
        artifact.verify()
    file.write_text("hall")
    with pytest.raises(ArtifactError, match=r"data\.txt: has 4 bytes, the manifest says 5"):
        Artifact.open(tmp_path / "a")
    file.unlink()
    with pytest.raises(ArtifactError, match=r"data\.txt: missing"):
        Artifact.open(tmp_path / "a")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="is of kind 'thing'; an artifact of kind corpus is needed"):
        Artifact.open(tmp_path / "a", "corpus")
    with pytest.raises(ArtifactError, match="no such folder"):
        Artifact.open(tmp_path / "nowhere")
    (tmp_path / "a" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.open(tmp_path / "a")


def test_another_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["format"] == FORMAT == 2
    path.write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(ArtifactError, match=r"a: has artifact format 3, but .* reads format 2: update encodery\.$"):
        Artifact.open(tmp_path / "a")
    del manifest["format"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"a: has artifact format 1, but .* reads format 2: make it again\.$"):
        Artifact.open(tmp_path / "a")


def test_nothing_appears_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), create_artifact(tmp_path / "a", "thing", {}) as draft:
        (draft.path / "half").write_text("x")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_kept_draft_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), create_artifact(tmp_path / "a", "thing", {}, keep_draft=True) as draft:
        (draft.path / "half").write_text("x")
        raise RuntimeError("stop")
    with create_artifact(tmp_path / "a", "thing", {}, keep_draft=True) as draft:
        assert (draft.path / "half").read_text() == "x"
    assert "half" in Artifact.open(tmp_path / "a").manifest.files


def test_existing_targets_are_overwritten_only_on_request(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(InputError, match="already exists"):
        make(tmp_path / "a", "new")
    assert make(tmp_path / "a", "new", overwrite=True).manifest.metrics == {"size": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write(tmp_path / "file", "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFull, match="no space left"):
        atomic_write(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(DiskFull):
        make(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_seal_leaves_a_readable_manifest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00" * 10)
    seal(tmp_path, "raw", {"n": 10})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"]["x"]["bytes"] == 10
    assert manifest["kind"] == "raw"


def test_a_mutable_folder_may_change_after_sealing(tmp_path: Path) -> None:
    with create_artifact(tmp_path / "a", kind="index", settings={}, mutable_folders=("store",)) as draft:
        (draft.path / "store").mkdir()
        (draft.path / "store" / "page").write_text("old")
        (draft.path / "stored").write_text("sealed")
    (tmp_path / "a" / "store" / "page").write_text("new and longer")
    artifact = Artifact.open(tmp_path / "a", "index")
    artifact.verify()
    assert set(artifact.manifest.files) == {"stored"}
