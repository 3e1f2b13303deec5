"""Encodes documents without indexing them: by several processes or machines, resumable, each passage once.

The folder holds `plan.json` (settings, the models' and the inputs' fingerprints, which all workers must share) and, of
each shard, parts of about a thousand passages with what the models give them, raw. A part is one file that appears
whole or not at all, so a process killed at any time loses the part in work, and the bytes are those of a run that was
never interrupted. Document i belongs to shard i mod N + 1. The worker that ends the last shard seals the folder: an
artifact of kind "encoded", of which `search index --encoded` makes an index (`encoded.py`).
"""

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
"""Called with the shard in work and the passages of it that are done."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """`text`: the column of rows that holds the text. `passages`: how documents are cut."""

    passages: Passages = field(default_factory=Passages)
    text: str = "auto"


@dataclass(frozen=True)
class EncodeResult:
    """After a worker: the shards it ended, those still open, and the artifact once there are none."""

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
    """Work on shard `shard` of `shards`, or, if not given, on one after another that nobody else works on.

    `encoder`, `model_path`: as for `build`. The same call goes on with what is there. Raises `ArtifactError` where the
    folder was begun with other inputs, models or settings, naming which, or the shard is in work; `InputError`,
    `EmptyInput`, `DiskFull`.
    """
    job = EncodeJob(sources, out, encoder, settings, shards, model_path)
    if shard is not None and not 1 <= shard <= shards:
        raise InputError(f"shard = {shard} of {shards}: shards are counted from 1 to their number.")
    ended = []
    for number in range(1, shards + 1) if shard is None else (shard,):
        state = job.work(number, progress)
        if state == "taken" and shard is not None:
            raise ArtifactError(f"{job.folder}: shard {number} of {shards} is in work by another process.")
        ended += [number] if state == "ended" else []
    return job.result(ended)


class EncodeJob:
    """The folder `out`, begun or gone on with, to work on shards of. Arguments and errors: see `encode`."""

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
            raise InputError("Nothing to encode with: give a model.")
        for retriever in self.retrievers:
            retriever.check_batch_invariance()
        if shards < 1:
            raise InputError(f"shards = {shards}: must be positive.")
        given = DocumentInput.open(sources, settings.text, avoid=(self.folder,))
        self.source = DocumentSource(sources, given, settings.passages, self.retrievers)
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
        """Whether the shard was done before, was brought to its end now, or another process works on it."""
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
        """What there is now; sealed where all shards are done. `ended`: those that were ended meanwhile."""
        with translate_disk_full(self.folder):
            left = open_shards(self.folder, self.shards)
            return EncodeResult(tuple(ended), left, _sealed(self.folder, self.plan, self.source))


def open_shards(folder: Path, shards: int) -> tuple[int, ...]:
    """The shards that are not done."""
    return tuple(number for number in range(1, shards + 1) if not _is_done(folder, number))


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan of a folder of encoded documents. Raises `ArtifactError`."""
    try:
        found: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / PLAN}: missing or damaged; is this a folder of `search encode`?") from error
    return found


def _is_done(folder: Path, number: int) -> bool:
    return (shard_folder(folder, number) / DONE).is_file()


def shard_folder(folder: Path, number: int) -> Path:
    """Where a shard's parts lie."""
    return folder / SHARDS / f"{number:05d}"


def part_files(folder: Path) -> list[Path]:
    """The finished parts of a shard's folder, in order."""
    return sorted(folder.glob("*.safetensors"))


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Write the plan, or make sure that the one there is the same. Of several beginners one writes it."""
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
            f"{folder}: was begun with other {' and '.join(dict.fromkeys(names))}. Go on with those, or encode into "
            "another folder."
        )


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[bool]:
    """Whether no other process holds that lock; this one does, meanwhile. It goes with the process."""
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
            figures = {name: sum(mark[name] for mark in marks) for name in names}
            if not figures["passages"]:
                raise EmptyInput(f"{', '.join(plan['sources'])}: no document with words in it.")
            # Every worker reads all documents, so each has counted all that were left out.
            figures["skipped"] = marks[0]["skipped"]
            return seal(folder, KIND, plan, source.parents, figures, mutable_folders=(LOCKS,))
    return Artifact.open(folder, KIND) if (folder / MANIFEST).is_file() else None


class _Shard:
    """The work on one shard: the documents behind the last finished part, part by part."""

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
    """A part: the documents as lines of JSON, and the columns of all their passages."""
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
        tensors["sparse.words"] = np.concatenate([row.term_ids for row in rows]).astype(np.int32)
        tensors["sparse.weights"] = np.concatenate([row.weights for row in rows])
    if "multi_vector" in fields:
        tensors["multi_vector.ends"] = np.cumsum([len(row["multi_vector"]) for row in columns], dtype=np.int64)
        tensors["multi_vector.rows"] = np.concatenate([row["multi_vector"] for row in columns])
    # One entry: the order of several would differ from run to run.
    return safetensors.numpy.save(tensors, {NOTE: json.dumps(note)})


def read_part_note(file: Path) -> dict[str, int]:
    """What a part says of itself. Raises `ArtifactError`."""
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            found: dict[str, int] = json.loads(opened.metadata()[NOTE])
    except Exception as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
    return found
