"""Encodes documents without indexing them: with several processes or machines, resumable, each passage once.

The folder holds `plan.json` (the settings and the fingerprints of the models and inputs, which all workers must share)
and, for each shard, parts of about a thousand passages with their embeddings before post-processing. A part is a file
that is written completely or not at all: a process that is killed loses only the part it was working on, and the bytes
equal those of a run without interruption. Document i belongs to shard i mod N + 1. The worker that finishes the last
shard seals the folder: it becomes an artifact of kind "encoded", from which `search index --encoded` builds an index
(`encoded_source.py`)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy

from encodery.base.artifact import MANIFEST, Artifact, atomic_write, seal, translate_disk_full
from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.base.settings import encode as encode_settings
from encodery.search import writer
from encodery.search.documents import DocumentInput
from encodery.search.load_retrievers import as_retrievers
from encodery.search.passage_sources import DocumentSource, comparable_settings, model_records
from encodery.search.passages import Passages
from encodery.search.retrievers import ModelRetriever
from encodery.search.writer import DocumentPassages, encode_points, in_groups

KIND, PLAN, SHARDS, LOCKS, DONE = "encoded", "plan.json", "shards", "locks", "done.json"
NOTE = "note"

ShardProgress = Callable[[int, int], None]
"""Called with the number of the current shard and the number of its passages done so far."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """`text`: the column of tables that holds the text. `passages`: how documents are divided."""

    passages: Passages = field(default_factory=Passages)
    text: str = "auto"


@dataclass(frozen=True)
class EncodeResult:
    """After a worker has ended: the shards it finished, those still open, and the artifact if none is open."""

    finished: tuple[int, ...]
    open: tuple[int, ...]
    artifact: Artifact | None


def encode_documents(
    sources: Sequence[str | Path],
    out: str | Path,
    encoder: Any,
    settings: EncodeSettings | None = None,
    shards: int = 1,
    shard: int | None = None,
    model_path: Any = None,
    progress: ShardProgress | None = None,
) -> EncodeResult:
    """Encode shard `shard` of `shards`, or, if it is None, one after another that no other process works on.

    Args:
        encoder, model_path: as for `build`.

    The same call continues earlier work. Raises `ArtifactError` if the folder was begun with other inputs, models or
    settings, naming which, or if another process works on the shard; `InputError`, `EmptyInput` and `DiskFull`.
    """
    job = EncodeJob(sources, out, encoder, settings, shards, model_path)
    if shard is not None and not 1 <= shard <= shards:
        raise InputError(f"shard = {shard}: must be between 1 and the number of shards, {shards}.")
    ended = []
    for number in range(1, shards + 1) if shard is None else (shard,):
        state = job.work(number, progress)
        if state == "taken" and shard is not None:
            raise ArtifactError(f"{job.folder}: another process works on shard {number} of {shards}.")
        ended += [number] if state == "ended" else []
    return job.result(ended)


class EncodeJob:
    """The folder `out`, created or continued, whose shards can be encoded. Arguments and errors: see
    `encode_documents`."""

    def __init__(
        self,
        sources: Sequence[str | Path],
        out: str | Path,
        encoder: Any,
        settings: EncodeSettings | None = None,
        shards: int = 1,
        model_path: Any = None,
    ) -> None:
        self.folder, self.retrievers, self.shards = Path(out), as_retrievers(encoder), shards
        settings = settings or EncodeSettings()
        if not self.retrievers:
            raise InputError("There is no model to encode with: give one with --model.")
        for retriever in self.retrievers:
            retriever.check_batch_invariance()
        if shards < 1:
            raise InputError(f"shards = {shards}: must be at least 1.")
        documents = DocumentInput.open(sources, settings.text, avoid=(self.folder,))
        self.source = DocumentSource(sources, documents, settings.passages, self.retrievers)
        self.plan = {
            "encode": encode_settings(settings),
            "models": model_records(self.retrievers, model_path),
            "inputs": self.source.fingerprint,
            "sources": list(self.source.sources),
            "shards": shards,
            "at_once": writer.PASSAGES_AT_ONCE,
        }
        with translate_disk_full(self.folder):
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
            _agree(self.folder, self.plan)

    def work(self, number: int, progress: ShardProgress | None = None) -> Literal["done", "ended", "taken"]:
        """Encode a shard. Return "done" if it was finished before, "ended" if it was finished now, and "taken" if
        another process works on it."""
        with translate_disk_full(self.folder):
            if _is_done(self.folder, number):
                return "done"
            with _alone(self.folder, f"{number:05d}") as free:
                if not free:
                    return "taken"
                if _is_done(self.folder, number):
                    return "done"
                _Shard(self.folder, number, self.shards, self.source, self.retrievers).run(progress)
                return "ended"

    def result(self, ended: Sequence[int]) -> EncodeResult:
        """Return the current state, and seal the folder if all shards are done. `ended`: the shards that the caller has
        finished."""
        with translate_disk_full(self.folder):
            left = open_shards(self.folder, self.shards)
            return EncodeResult(tuple(ended), left, _sealed(self.folder, self.plan, self.source))


def open_shards(folder: Path, shards: int) -> tuple[int, ...]:
    """Return the shards that are not done."""
    return tuple(number for number in range(1, shards + 1) if not _is_done(folder, number))


def read_plan(folder: Path) -> dict[str, Any]:
    """Read the plan of a folder of encoded documents. Raises `ArtifactError`."""
    try:
        plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder / PLAN}: missing or damaged. Give a folder that `encodery search encode` wrote."
        ) from error
    return plan


def _is_done(folder: Path, number: int) -> bool:
    return (shard_folder(folder, number) / DONE).is_file()


def shard_folder(folder: Path, number: int) -> Path:
    """Return the folder of a shard's parts."""
    return folder / SHARDS / f"{number:05d}"


def part_files(folder: Path) -> list[Path]:
    """Return the finished parts of a shard's folder, in order."""
    return sorted(folder.glob("*.safetensors"))


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or check that the existing one is equal. Of several processes that begin one writes it."""
    draft = folder / LOCKS / f"plan.{os.getpid()}"
    atomic_write(draft, json.dumps(plan, indent=1, sort_keys=True))
    with contextlib.suppress(FileExistsError):
        os.link(draft, folder / PLAN)
    draft.unlink()
    held = read_plan(folder)
    what = {"inputs": "input files", "models": "model or runtime", "encode": "settings", "at_once": "version"}
    names = [
        what.get(name, name) for name in plan if comparable_settings(held.get(name)) != comparable_settings(plan[name])
    ]
    if names:
        raise ArtifactError(
            f"{folder}: was begun with other {' and '.join(dict.fromkeys(names))}. Continue with the former ones, or "
            "encode into another folder."
        )


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[bool]:
    """Whether no other process has this lock; this process has it meanwhile. The lock ends with the process."""
    with (folder / LOCKS / name).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _sealed(folder: Path, plan: dict[str, Any], source: DocumentSource) -> Artifact | None:
    if open_shards(folder, plan["shards"]):
        return None
    with _alone(folder, "seal") as free:
        if free and not (folder / MANIFEST).is_file():
            marks = [json.loads((shard_folder(folder, n) / DONE).read_bytes()) for n in range(1, plan["shards"] + 1)]
            names = ("documents", "passages", "tokens", "dropped_tokens")
            metrics = {name: sum(mark[name] for mark in marks) for name in names}
            if not metrics["passages"]:
                raise EmptyInput(f"{', '.join(plan['sources'])}: no document contains a word.")
            # Every worker reads all documents, so each one has counted all that were left out.
            metrics["skipped"] = marks[0]["skipped"]
            return seal(folder, KIND, plan, source.parents, metrics, mutable_folders=(LOCKS,))
    return Artifact.open(folder, KIND) if (folder / MANIFEST).is_file() else None


class _Shard:
    """The work on one shard: the documents after its last finished part, part by part."""

    def __init__(
        self, folder: Path, number: int, shards: int, source: DocumentSource, retrievers: Sequence[ModelRetriever]
    ) -> None:
        self.folder, self.number, self.shards = shard_folder(folder, number), number, shards
        self.source, self.retrievers = source, retrievers

    def run(self, progress: ShardProgress | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        notes = [read_part_note(file) for file in part_files(self.folder)]
        start = notes[-1]["next"] if notes else 0
        for group in in_groups(self.source.documents(start, self.shards, self.number - 1)):
            counts: Counter[str] = Counter()
            points = encode_points([point for piece in group for point in piece.passages], self.retrievers, counts)
            note = {
                "documents": len(group),
                "passages": len(points),
                "tokens": counts["tokens"],
                "dropped_tokens": counts["dropped_tokens"],
                "next": group[-1].number + 1,
            }
            data = pack_part(
                group,
                [{retriever.mode: getattr(p, retriever.mode) for retriever in self.retrievers} for p in points],
                note,
            )
            atomic_write(self.folder / f"{len(notes):06d}.safetensors", data)
            notes.append(note)
            if progress is not None:
                progress(self.number, sum(note["passages"] for note in notes))
        names = ("documents", "passages", "tokens", "dropped_tokens")
        mark: dict[str, Any] = {name: sum(note[name] for note in notes) for name in names}
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in part_files(self.folder)]
        mark |= {"parts": digests, "skipped": dict(sorted(self.source.skipped.items()))}
        atomic_write(self.folder / DONE, json.dumps(mark, sort_keys=True))


def pack_part(group: Sequence[DocumentPassages], columns: Sequence[dict[str, Any]], note: dict[str, int]) -> bytes:
    """Return the bytes of a part: the documents as lines of JSON, and the embeddings of all their passages.

    Args:
        columns: for each passage, mode -> embedding.
    """
    lines = [
        json.dumps([p.number, p.document, [[q.number, q.text, q.payload] for q in p.passages]], default=str)
        for p in group
    ]
    tensors = {"documents": np.frombuffer("\n".join(lines).encode(), np.uint8)}
    fields = set(columns[0])
    if "dense" in fields:
        tensors["dense"] = np.stack([row["dense"] for row in columns])
    if "sparse" in fields:
        rows = [row["sparse"] for row in columns]
        tensors["sparse.ends"] = np.cumsum([len(row.term_ids) for row in rows], dtype=np.int64)
        tensors["sparse.term_ids"] = np.concatenate([row.term_ids for row in rows]).astype(np.int32)
        tensors["sparse.weights"] = np.concatenate([row.weights for row in rows])
    if "multi_vector" in fields:
        tensors["multi_vector.ends"] = np.cumsum([len(row["multi_vector"]) for row in columns], dtype=np.int64)
        tensors["multi_vector.rows"] = np.concatenate([row["multi_vector"] for row in columns])
    # One metadata entry only: the order of several would differ between runs.
    return safetensors.numpy.save(tensors, {NOTE: json.dumps(note)})


def read_part_note(file: Path) -> dict[str, int]:
    """Return the counts of a part. Raises `ArtifactError`."""
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            note: dict[str, int] = json.loads(opened.metadata()[NOTE])
    except Exception as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    return note
