"""Writes encoded documents: shards of ids, their checksums, and the index of a split."""

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
from encodery.tokens.store import GROUPS, OFFSETS, SUFFIX

RECORDS = "records"


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard, in `records/` of the draft, so that an interrupted run can continue."""

    source: str
    documents: int
    tokens: int
    bytes: int
    unknown: int
    empty: int
    sha256: str


def id_dtype(vocab_size: int) -> str:
    """Return the smallest type that holds every id: `uint16` below 65,536 ids, else `uint32`."""
    return "uint16" if vocab_size < 65536 else "uint32"


class TokenShardWriter:
    """Writes one shard: ids as they come, the lengths at the end. The file appears intact or not at all.

    `groups`: the group of each document so far, empty if none have groups; whoever makes the documents appends to it.
    """

    def __init__(self, split: Path, number: int, dtype: str, unk_id: int) -> None:
        self.path = split / f"{number:05d}{SUFFIX[dtype]}"
        self.kind = np.dtype(dtype).newbyteorder("<")
        self.unk_id = unk_id
        self.lengths: list[int] = []
        self.groups: list[int] = []
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
        return self._record(source, digest.hexdigest())

    def _record(self, source: str, digest: str) -> ShardRecord:
        lengths = np.asarray(self.lengths, dtype=np.int64)
        record = ShardRecord(
            source=source,
            documents=len(lengths),
            tokens=int(lengths.sum()),
            bytes=self.bytes,
            unknown=self.unknown,
            empty=int(np.count_nonzero(lengths == 0)),
            sha256=digest,
        )
        records = self.path.parent / RECORDS
        with translate_disk_full(records):
            np.save(records / f"{self.path.stem}.npy", lengths)
            if self.groups:
                np.save(records / f"{self.path.stem}.{GROUPS}", np.asarray(self.groups, dtype=np.int64))
        atomic_write(records / f"{self.path.stem}.json", json.dumps(asdict(record)))
        return record


def finished_shard(split: Path, number: int, dtype: str, source: str) -> ShardRecord | None:
    """Return the record of shard `number` if an earlier run finished it from the same source and it is intact."""
    shard = split / f"{number:05d}{SUFFIX[dtype]}"
    path = split / RECORDS / f"{number:05d}.json"
    try:
        record = ShardRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    intact = record.source == source and shard.is_file() and sha256(shard) == record.sha256
    return record if intact and (split / RECORDS / f"{number:05d}.npy").is_file() else None


def index_split(split: Path, records: list[ShardRecord]) -> dict[str, int]:
    """Join the shards' lengths into `offsets.npy` and their groups, if any, into `groups.npy`, remove the records, and
    return the split's metrics."""
    split.mkdir(parents=True, exist_ok=True)
    documents = sum(record.documents for record in records)
    if documents:
        with translate_disk_full(split / OFFSETS):
            _write_offsets(split, len(records), documents)
            if groups := [np.load(path, allow_pickle=False) for path in sorted((split / RECORDS).glob(f"*.{GROUPS}"))]:
                np.save(split / GROUPS, np.concatenate(groups))
    folder = split / RECORDS
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return {
        "documents": documents,
        "tokens": sum(record.tokens for record in records),
        "bytes": sum(record.bytes for record in records),
        "unknown": sum(record.unknown for record in records),
        "empty": sum(record.empty for record in records),
    }


def _write_offsets(split: Path, shards: int, documents: int) -> None:
    offsets = np.lib.format.open_memmap(split / OFFSETS, mode="w+", dtype=np.int64, shape=(documents + 1,))
    offsets[0] = count = 0
    for number in range(shards):
        lengths = np.load(split / RECORDS / f"{number:05d}.npy", allow_pickle=False)
        offsets[count + 1 : count + 1 + len(lengths)] = np.cumsum(lengths) + offsets[count]
        count += len(lengths)
    offsets.flush()
