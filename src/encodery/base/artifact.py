"""Artifacts: a folder with `manifest.json`. Stages hand over artifacts, never live objects.

The manifest says what the folder is (kind), how it was made (settings, parents), what it holds (files with sizes
and SHA-256, a fingerprint over them) and what was measured (figures), so that a figure can be walked back to its
corpus. Folders appear whole or not at all: they are written beside the target and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, BinaryIO

from encodery.base.errors import ArtifactError, DiskFull, InputError

MANIFEST = "manifest.json"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. `files` maps each relative path to {"bytes", "sha256"}."""

    kind: str
    settings: dict[str, Any]
    parents: dict[str, dict[str, str]]
    fingerprint: str
    metrics: dict[str, Any]
    files: dict[str, dict[str, Any]]
    created: str
    version: str


@dataclass(frozen=True)
class Artifact:
    """A folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, kind: str | tuple[str, ...] | None = None) -> Artifact:
        """Open a folder as an artifact of one of the given kinds. File sizes are checked, contents are not.

        Raises `ArtifactError` naming the path, what was found and what was expected.
        """
        folder = Path(path)
        kinds = (kind,) if isinstance(kind, str) else kind
        wanted = f"an artifact of kind {' or '.join(kinds)}" if kinds else "an artifact"
        if not folder.exists():
            raise ArtifactError(f"{folder}: no such folder; {wanted} is needed.")
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{folder}: has no {MANIFEST}; {wanted} is needed.")
        try:
            manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{folder / MANIFEST}: damaged: {error}") from error
        if kinds and manifest.kind not in kinds:
            raise ArtifactError(f"{folder}: is of kind '{manifest.kind}'; {wanted} is needed.")
        artifact = cls(folder, manifest)
        artifact._check_sizes()
        return artifact

    @classmethod
    def find_all(cls, folder: str | Path) -> list[Artifact]:
        """Those that a folder of a model or of a run holds: itself, and its `model`; none in a stock folder."""
        places = (Path(folder), Path(folder) / "model")
        return [cls.open(place) for place in places if (place / MANIFEST).is_file()]

    def _check_sizes(self) -> None:
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise ArtifactError(f"{file}: missing.")
            if file.stat().st_size != entry["bytes"]:
                raise ArtifactError(f"{file}: has {file.stat().st_size} bytes, the manifest says {entry['bytes']}.")

    def verify(self) -> None:
        """Check every file's SHA-256. Raises `ArtifactError` naming the first file that was altered."""
        for name, entry in self.manifest.files.items():
            if sha256(self.path / name) != entry["sha256"]:
                raise ArtifactError(f"{self.path / name}: its contents are not what was written (SHA-256 differs).")

    def reference(self) -> dict[str, str]:
        """How a child artifact names this one among its parents."""
        return {
            "kind": self.manifest.kind,
            "fingerprint": self.manifest.fingerprint,
            "path": str(self.path.resolve()),
        }

    def add_metrics(self, metrics: Mapping[str, Any]) -> Artifact:
        """The same artifact with more figures in its manifest; nothing else changes."""
        manifest = Manifest(**{**asdict(self.manifest), "metrics": {**self.manifest.metrics, **metrics}})
        _write_manifest(self.path, manifest)
        return Artifact(self.path, manifest)


@dataclass(frozen=True)
class Ancestor:
    """An artifact that another came from; `name`: what it was to the one made of it, `depth`: 0 for the direct parents.

    `artifact` is None where it is gone, and `note` says what is wrong with it; empty when it is there and unchanged.
    """

    name: str
    kind: str
    fingerprint: str
    path: str
    depth: int
    artifact: Artifact | None
    problem: str = ""


def ancestors(artifact: Artifact, depth: int = 0) -> Iterator[Ancestor]:
    """All that an artifact came from, each followed by what it came from itself, as far as it can be walked back."""
    for name, entry in artifact.manifest.parents.items():
        found, note = None, ""
        try:
            found = Artifact.open(entry["path"], entry["kind"])
            if found.manifest.fingerprint != entry["fingerprint"]:
                found, note = None, "the folder holds another artifact now"
        except ArtifactError:
            note = "not where it was"
        yield Ancestor(name, entry["kind"], entry["fingerprint"], entry["path"], depth, found, note)
        if found is not None:
            yield from ancestors(found, depth + 1)


@dataclass
class Draft:
    """A folder in the making: write below `path`; `keep` leaves it in place when writing fails, to be resumed."""

    path: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    keep_on_error: bool = False


@contextlib.contextmanager
def create_artifact(
    path: str | Path,
    kind: str,
    settings: Mapping[str, Any],
    parents: Mapping[str, Artifact] | None = None,
    overwrite: bool = False,
    keep_draft: bool = False,
    mutable_folders: Iterable[str] = (),
) -> Iterator[Draft]:
    """Write an artifact: yields a draft folder beside `path`, which becomes `path` when the block ends well.

    The draft's name is stable, so with `keep=True` an interrupted writer finds its own earlier work there.
    `living` names inner folders that go on changing after they are written (an index's store): they are not sealed.
    Raises `InputError` if `path` exists (unless `overwrite`), `DiskFull` when the device runs out of space.
    """
    target = Path(path)
    if target.exists() and not overwrite and any(target.iterdir() if target.is_dir() else [target]):
        raise InputError(f"{target}: already exists and is not empty; choose another folder or overwrite it.")
    draft = Draft(target.parent / f".{target.name}.draft", keep_on_error=keep_draft)
    with translate_disk_full(target):
        if draft.path.exists() and not keep_draft:
            shutil.rmtree(draft.path)
        draft.path.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            seal(draft.path, kind, settings, parents, draft.metrics, mutable_folders)
        except BaseException:
            if not draft.keep_on_error:
                shutil.rmtree(draft.path, ignore_errors=True)
            raise
        _replace(draft.path, target)


def seal(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    parents: Mapping[str, Artifact] | None = None,
    metrics: Mapping[str, Any] | None = None,
    mutable_folders: Iterable[str] = (),
) -> Artifact:
    """Hash what lies in `folder`, but for the inner folders `living`, and write its manifest: an artifact in place."""
    apart = [folder / MANIFEST, *(folder / name for name in mutable_folders)]
    names = sorted(p for p in folder.rglob("*") if p.is_file() and not any(p.is_relative_to(a) for a in apart))
    files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in names}
    digest = hashlib.sha256(kind.encode())
    for name, entry in files.items():
        digest.update(f"{name}\0{entry['sha256']}\n".encode())
    manifest = Manifest(
        kind=kind,
        settings=dict(settings),
        parents={name: parent.reference() for name, parent in (parents or {}).items()},
        fingerprint=digest.hexdigest()[:32],
        metrics=dict(metrics or {}),
        files=files,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=package_version("encodery"),
    )
    _write_manifest(folder, manifest)
    return Artifact(folder, manifest)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one. Raises `DiskFull`."""
    with atomic_open(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of the one at `path` when the block ends well; else that one stays.

    Raises `DiskFull`.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.draft")
    with translate_disk_full(target):
        try:
            with draft.open("wb") as file:
                yield file
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        draft.replace(target)


@contextlib.contextmanager
def translate_disk_full(target: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into `DiskFull` that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{target}: no space left on the device. What was finished before is intact.") from error
        raise


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(folder / MANIFEST, text + "\n")


def _replace(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    draft.rename(target)
    shutil.rmtree(old)
