"""Writing packed documents: shards of ids, their checksums, and the index of a split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encodery.base.artifact import atomic_write, sha256, translate_disk_full
from encodery.tokens.store import OFFSETS, SUFFIX

RECORDS = "notes"


@dataclass(frozen=True)
class ShardRecord:
    """What is remembered of a finished shard, in `notes/` of the draft, so that a killed pack continues."""

    source: str
    documents: int
    tokens: int
    bytes: int
    unknown: int
    empty: int
    sha256: str


def id_dtype(vocab_size: int) -> str:
    """The type that holds every id: `uint16` below 65,536 ids, else `uint32`."""
    return "uint16" if vocab_size < 65536 else "uint32"


class TokenShardWriter:
    """Writes one shard: ids as they come, the lengths when it ends. The file appears whole or not at all."""

    def __init__(self, split: Path, number: int, dtype: str, unk_id: int) -> None:
        self.path = split / f"{number:05d}{SUFFIX[dtype]}"
        self.kind = np.dtype(dtype).newbyteorder("<")
        self.unk_id = unk_id
        self.lengths: list[int] = []
        self.bytes = self.unknown = 0
        (split / RECORDS).mkdir(parents=True, exist_ok=True)

    def write(self, documents: Iterable[tuple[npt.NDArray[np.uint32], int]], source: str) -> ShardRecord:
        """Write (ids (n,), UTF-8 bytes of the text) pairs and finish the shard. Raises `DiskFull`."""
        draft = self.path.with_name(f".{self.path.name}.draft")
        digest = hashlib.sha256()
        with translate_disk_full(self.path):
            try:
                with draft.open("wb") as file:
                    for ids, size in documents:
                        block = ids.astype(self.kind).tobytes()
                        file.write(block)
                        digest.update(block)
                        self.lengths.append(len(ids))
                        self.bytes += size
                        self.unknown += int(np.count_nonzero(ids == self.unk_id))
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            draft.replace(self.path)
        return self._remember(source, digest.hexdigest())

    def _remember(self, source: str, digest: str) -> ShardRecord:
        lengths = np.asarray(self.lengths, dtype=np.int64)
        note = ShardRecord(
            source=source,
            documents=len(lengths),
            tokens=int(lengths.sum()),
            bytes=self.bytes,
            unknown=self.unknown,
            empty=int(np.count_nonzero(lengths == 0)),
            sha256=digest,
        )
        notes = self.path.parent / RECORDS
        with translate_disk_full(notes):
            np.save(notes / f"{self.path.stem}.npy", lengths)
        atomic_write(notes / f"{self.path.stem}.json", json.dumps(asdict(note)))
        return note


def finished_shard(split: Path, number: int, dtype: str, source: str) -> ShardRecord | None:
    """The note of shard `number` if an earlier pack finished it from the same source and it is still whole."""
    shard = split / f"{number:05d}{SUFFIX[dtype]}"
    path = split / RECORDS / f"{number:05d}.json"
    try:
        note = ShardRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = note.source == source and shard.is_file() and sha256(shard) == note.sha256
    return note if whole and (split / RECORDS / f"{number:05d}.npy").is_file() else None


def index_split(split: Path, records: list[ShardRecord]) -> dict[str, int]:
    """Join the shards' lengths into `offsets.npy`, remove the notes, and return the split's figures."""
    split.mkdir(parents=True, exist_ok=True)
    documents = sum(note.documents for note in records)
    if documents:
        with translate_disk_full(split / OFFSETS):
            _write_offsets(split, len(records), documents)
    folder = split / RECORDS
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return {
        "documents": documents,
        "tokens": sum(note.tokens for note in records),
        "bytes": sum(note.bytes for note in records),
        "unknown": sum(note.unknown for note in records),
        "empty": sum(note.empty for note in records),
    }


def _write_offsets(split: Path, shards: int, documents: int) -> None:
    offsets = np.lib.format.open_memmap(split / OFFSETS, mode="w+", dtype=np.int64, shape=(documents + 1,))
    offsets[0] = done = 0
    for number in range(shards):
        lengths = np.load(split / RECORDS / f"{number:05d}.npy", allow_pickle=False)
        offsets[done + 1 : done + 1 + len(lengths)] = np.cumsum(lengths) + offsets[done]
        done += len(lengths)
    offsets.flush()
