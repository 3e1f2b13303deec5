"""Artifacts: a folder with a `manifest.json`. Stages exchange artifacts, never live objects.

The manifest records what the folder is (kind), how it was made (settings, parents), what it contains (files with
sizes and SHA-256, and a fingerprint over them) and what was measured (metrics), so that every measured number can be
traced back to its corpus. A folder appears complete or not at all: it is written next to its target and then renamed.
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
FORMAT = 2
"""Version of the artifact format. It is raised when stored keys or files change; other versions are not read."""
BLOCK = 1 << 20  # Bytes read at a time when a file is hashed.


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`. `files` maps each relative path to {"bytes", "sha256"}."""

    format: int
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
        """Open a folder as an artifact. File sizes are checked; `verify` checks the contents.

        Args:
            kind: the kind or kinds that are accepted; None accepts every kind.

        Raises `ArtifactError` naming the folder, what it is and what was expected.
        """
        folder = Path(path)
        kinds = (kind,) if isinstance(kind, str) else kind
        expected = f"an artifact of kind {' or '.join(kinds)}" if kinds else "an artifact"
        if not folder.exists():
            raise ArtifactError(f"{folder}: no such folder; {expected} is needed.")
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{folder}: has no {MANIFEST}; {expected} is needed.")
        manifest = _read_manifest(folder)
        if kinds and manifest.kind not in kinds:
            raise ArtifactError(f"{folder}: is of kind '{manifest.kind}'; {expected} is needed.")
        artifact = cls(folder, manifest)
        artifact._check_sizes()
        return artifact

    @classmethod
    def find_all(cls, folder: str | Path) -> list[Artifact]:
        """Return the artifacts in the folder of a model or a run: the folder itself and its `model` subfolder.

        The list is empty for a folder that encodery did not write, such as a Hugging Face checkpoint.
        """
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
        """Check the SHA-256 of every file. Raises `ArtifactError` naming the first file that was altered."""
        for name, entry in self.manifest.files.items():
            if sha256(self.path / name) != entry["sha256"]:
                raise ArtifactError(f"{self.path / name}: its content was altered since it was written (SHA-256).")

    def reference(self) -> dict[str, str]:
        """Return the entry with which a child artifact records this one among its parents."""
        return {
            "kind": self.manifest.kind,
            "fingerprint": self.manifest.fingerprint,
            "path": str(self.path.resolve()),
        }

    def add_metrics(self, metrics: Mapping[str, Any]) -> Artifact:
        """Add metrics to the manifest on disk and return the updated artifact; the fingerprint stays the same."""
        manifest = Manifest(**{**asdict(self.manifest), "metrics": {**self.manifest.metrics, **metrics}})
        _write_manifest(self.path, manifest)
        return Artifact(self.path, manifest)


@dataclass(frozen=True)
class Ancestor:
    """An artifact from which another one was made.

    `name` is its role for the artifact made from it ("corpus", "tokens"); `depth` is 0 for direct parents. `artifact`
    is None if the folder is missing or was replaced; `problem` then says which, and is empty otherwise.
    """

    name: str
    kind: str
    fingerprint: str
    path: str
    depth: int
    artifact: Artifact | None
    problem: str = ""


def ancestors(artifact: Artifact, depth: int = 0) -> Iterator[Ancestor]:
    """Yield the ancestors of an artifact depth-first: each parent, followed by the parent's own ancestors."""
    for name, entry in artifact.manifest.parents.items():
        parent, problem = None, ""
        try:
            parent = Artifact.open(entry["path"], entry["kind"])
            if parent.manifest.fingerprint != entry["fingerprint"]:
                parent, problem = None, "the folder now contains another artifact"
        except ArtifactError:
            problem = "no longer at its path"
        yield Ancestor(name, entry["kind"], entry["fingerprint"], entry["path"], depth, parent, problem)
        if parent is not None:
            yield from ancestors(parent, depth + 1)


@dataclass
class Draft:
    """The folder in which an artifact is being written.

    Write files below `path` and numbers to `metrics`. `keep_on_error` leaves the folder in place when writing fails,
    so that a later call can continue from it.
    """

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
    """Write an artifact: yield a draft folder next to `path`, which is renamed to `path` when the block succeeds.

    Args:
        path: the folder of the finished artifact.
        kind: what the artifact is, such as "corpus" or "model".
        settings: how it was made; stored in the manifest.
        parents: the artifacts it was made from, by their role.
        overwrite: whether an existing folder at `path` is replaced.
        keep_draft: keep the draft when writing fails. Its name is stable, so the next call finds the earlier work.
        mutable_folders: subfolders that change after the artifact is written (the store of an index). Their files
            are not recorded in the manifest.

    Raises `InputError` if `path` exists and is not to be overwritten, `DiskFull` if the device runs out of space.
    """
    target = Path(path)
    if target.exists() and not overwrite and any(target.iterdir() if target.is_dir() else [target]):
        raise InputError(f"{target}: already exists and is not empty; choose another folder, or overwrite it.")
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
    """Make an artifact of a folder in place: hash its files and write its manifest.

    The arguments are those of `create_artifact`; `metrics` are the measured numbers to store.
    """
    excluded = [folder / MANIFEST, *(folder / name for name in mutable_folders)]
    names = sorted(p for p in folder.rglob("*") if p.is_file() and not any(p.is_relative_to(a) for a in excluded))
    files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in names}
    digest = hashlib.sha256(kind.encode())
    for name, entry in files.items():
        digest.update(f"{name}\0{entry['sha256']}\n".encode())
    manifest = Manifest(
        format=FORMAT,
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
    """Return the SHA-256 of a file in hexadecimal. The file is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write a file atomically: after a failure the old file is still there. Raises `DiskFull`."""
    with atomic_open(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces the one at `path` when the block succeeds, and is deleted otherwise.

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
    """Translate the operating system's "no space left" into a `DiskFull` that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{target}: no space left on the device. Everything finished before is intact.") from error
        raise


def _read_manifest(folder: Path) -> Manifest:
    try:
        table = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (version := table.get("format", 1)) != FORMAT:
            raise ArtifactError(
                f"{folder}: has artifact format {version}, but this version of encodery reads format {FORMAT}: "
                + ("make it again." if version < FORMAT else "update encodery.")
            )
        return Manifest(**table)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / MANIFEST}: damaged: {error}") from error


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
