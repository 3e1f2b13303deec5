"""Read the shards of a finished corpus.

A shard contains JSON lines, one document per line. Shards are written as `.jsonl.zst`; `.jsonl.gz` and `.jsonl` can be
read as well.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from encodery.base.errors import ArtifactError, InputError
from encodery.corpus.document import Document

SPLITS = ("train", "heldout")


def shard_paths(corpus: str | Path, split: str) -> list[Path]:
    """Return the shards of a split, in order; an empty list if the split has no documents.

    Raises `InputError` if the split is neither `train` nor `heldout`.
    """
    if split not in SPLITS:
        raise InputError(f"There is no split '{split}'. The splits are {' and '.join(SPLITS)}.")
    return sorted(p for p in (Path(corpus) / split).glob("*.jsonl*") if not p.name.startswith("."))


def read_documents(paths: Iterable[str | Path]) -> Iterator[Document]:
    """Yield the documents of shards. Memory holds one block and one document at a time.

    Raises `ArtifactError` naming the shard that is damaged.
    """
    for path in map(Path, paths):
        try:
            with path.open("rb") as file:
                yield from _lines(file, path.suffix)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: damaged shard: {error}") from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise ArtifactError(f"{path}: damaged shard: {error}") from error


def _lines(file: BinaryIO, suffix: str) -> Iterator[Document]:
    if suffix == ".zst":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
            yield from _parse(io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20))
    elif suffix == ".gz":
        with gzip.open(file) as stream:
            yield from _parse(stream)
    else:
        yield from _parse(file)


def _parse(stream: Iterable[bytes]) -> Iterator[Document]:
    for line in stream:
        row = json.loads(line)
        yield Document(row["id"], row["text"], row.get("metadata", {}))
