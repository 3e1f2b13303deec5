"""List the files of the sources (folders, globs, files) and assign them to tasks.

The assignment depends only on the files and their sizes, not on the number of workers, so that every machine produces
the same documents.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from encodery.base.errors import EmptyInput, InputError, nearest

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
EXPANSION = 4  # Estimated bytes of text per byte of a compressed file.
TASK_BYTES = 8 << 20
MAX_TASKS = 4096
MAX_SLICES = 4  # Of a file that every slice must decompress from its start.
MAX_SKIPPED_FILES = 100  # Skipped files that are listed by name.
# Suffixes and names of text files without a known format; other files in a folder are counted and skipped.
PLAIN_SUFFIXES = frozenset(("", ".log", ".debian", ".asc"))
PLAIN_NAMES = ("readme", "news", "changes", "changelog", "copying", "copyright", "license", "licence", "authors")


@dataclass(frozen=True)
class SourceFile:
    """A file, or one slice of it.

    Attributes:
        name: the path relative to the source that the user gave.
        origin: the folder or file that is recorded as the source of its documents.
        format: the name of its reader.
        compression: "gzip", "zstd", "xz", "bz2", or empty.
        bytes: the size of the file on disk.
        modified: the time of its last change, in nanoseconds.
        slice_index, num_slices: which slice of the file this is.
    """

    path: str
    name: str
    origin: str
    format: str
    compression: str
    bytes: int
    modified: int
    slice_index: int = 0
    num_slices: int = 1

    @property
    def text_bytes(self) -> int:
        """The estimated bytes of text in this slice."""
        return self.bytes * (EXPANSION if self.compression else 1) // self.num_slices


@dataclass(frozen=True)
class FileListing:
    """The files of a corpus.

    Attributes:
        files: the files to read, in order.
        skipped: reason -> number of files that are not read.
        skipped_files: up to 100 of them, as `reason: path`.
    """

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, int]
    skipped_files: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def fingerprint(self) -> str:
        """Return a hash that changes when a file is added, removed, renamed or rewritten."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(json.dumps([file.name, file.format, file.bytes, file.modified]).encode())
        return digest.hexdigest()[:32]


def list_files(sources: Iterable[str | Path], suffixes: Mapping[str, str], avoid: Iterable[Path] = ()) -> FileListing:
    """Return the files of the sources.

    Args:
        suffixes: the name of the reader of each suffix, such as `.md`.
        avoid: folders that are not entered.

    Raises `InputError` for a source that does not exist, `EmptyInput` if there is no readable file.
    """
    paths = [str(source) for source in sources]
    skipped: Counter[str] = Counter()
    skipped_files: list[str] = []
    seen: set[str] = set()
    files: list[SourceFile] = []
    avoided = {str(Path(path).resolve()) for path in avoid}
    for source in paths:
        for path, name, origin, is_explicit in _expand(source, avoided):
            real = os.path.realpath(path)
            file = "read twice" if real in seen else _describe(path, name, origin, suffixes, is_explicit)
            seen.add(real)
            if isinstance(file, str):
                skipped[file] += 1
                if len(skipped_files) < MAX_SKIPPED_FILES:
                    skipped_files.append(f"{file}: {path}")
            else:
                files.append(file)
    if not files:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common(5))
        raise EmptyInput(
            f"There is nothing to read in {', '.join(paths) or 'no sources'}: "
            + (f"{sum(skipped.values())} files were skipped ({reasons})." if skipped else "no files.")
            + f" Formats: {', '.join(sorted(suffixes))}, each also .gz .zst .xz .bz2."
        )
    return FileListing(tuple(files), dict(skipped), tuple(skipped_files))


def _expand(source: str, avoided: set[str]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (path, name, origin, whether the user named this file explicitly) of each file of a source."""
    expanded = os.path.expanduser(source)
    if os.path.isdir(expanded):
        yield from _walk(expanded, avoided)
    elif os.path.exists(expanded):
        yield expanded, os.path.basename(expanded), _stem(expanded), True
    elif glob.has_magic(expanded):
        paths = sorted(glob.glob(expanded, recursive=True))
        if not paths:
            raise InputError(f"{source}: no file matches.")
        for path in paths:
            if os.path.isdir(path):
                yield from _walk(path, avoided)
            else:
                yield path, os.path.basename(path), _stem(path), True
    else:
        parent = Path(expanded).parent
        siblings = [str(p) for p in sorted(parent.iterdir())] if parent.is_dir() else []
        raise InputError(f"{source}: no such file or folder.{nearest(expanded, siblings)}")


def _walk(folder: str, avoided: set[str]) -> Iterator[tuple[str, str, str, bool]]:
    root = Path(folder)
    origin = root.resolve().name
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and os.path.realpath(os.path.join(current, f)) not in avoided
        )
        # Links come last, so that a file is read under its real name.
        for _, name in sorted((os.path.islink(os.path.join(current, name)), name) for name in names):
            if name.startswith("."):
                continue
            path = os.path.join(current, name)
            inside = os.path.relpath(path, folder)
            first = Path(inside).parts[0]
            yield path, inside, first if os.sep in inside else origin, False


def _stem(path: str) -> str:
    return os.path.basename(path).split(".")[0] or os.path.basename(path)


def _describe(path: str, name: str, origin: str, suffixes: Mapping[str, str], is_explicit: bool) -> SourceFile | str:
    """Return the source file at a path, or the reason why it is skipped."""
    try:
        stat = os.stat(path)
    except OSError:
        return "broken link" if os.path.islink(path) else "unreadable"
    if not os.path.isfile(path):
        return "no regular file"
    if stat.st_size == 0:
        return "empty"
    base, suffix = os.path.splitext(os.path.basename(path))
    compression = COMPRESSIONS.get(suffix.lower(), "")
    if compression:
        suffix = os.path.splitext(base)[1]
    kind = suffixes.get(suffix.lower())
    if kind is None:
        if not (is_explicit or suffix.lower() in PLAIN_SUFFIXES or base.lower().startswith(PLAIN_NAMES)):
            return f"format {suffix.lower()}"
        kind = suffixes.get(".txt")
        if kind is None:
            return f"format {suffix.lower() or 'without suffix'}"
    if kind == "parquet" and compression:
        return "format .parquet inside an archive"
    return SourceFile(path, name, origin, kind, compression, stat.st_size, stat.st_mtime_ns)


def assign_tasks(files: Iterable[SourceFile], sliceable: Iterable[str]) -> list[list[SourceFile]]:
    """Return the file slices of each task: contiguous runs of about equal bytes.

    Args:
        sliceable: the formats whose files can be divided among tasks.
    """
    formats = set(sliceable)
    slices = [piece for file in files for piece in _slices(file, file.format in formats)]
    total = sum(piece.text_bytes for piece in slices)
    count = max(1, min(MAX_TASKS, -(-total // TASK_BYTES), len(slices)))
    tasks: list[list[SourceFile]] = [[] for _ in range(count)]
    before = 0
    for piece in slices:
        middle = before + piece.text_bytes / 2
        tasks[min(count - 1, int(middle * count / max(total, 1)))].append(piece)
        before += piece.text_bytes
    return [task for task in tasks if task]


def _slices(file: SourceFile, is_sliceable: bool) -> list[SourceFile]:
    count = -(-file.text_bytes // TASK_BYTES) if is_sliceable else 1
    if file.compression or file.format != "jsonl":
        count = min(count, MAX_SLICES)
    return [replace(file, slice_index=index, num_slices=count) for index in range(count)]


def write_tasks(folder: Path, tasks: list[list[SourceFile]]) -> None:
    """Write one JSON file per task, so that a worker loads only its own slices."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tasks):
        (folder / f"{number:05d}.json").write_text(json.dumps([asdict(piece) for piece in task]), encoding="utf-8")


def read_task(folder: Path, number: int) -> list[SourceFile]:
    """Return the slices that `write_tasks` wrote for a task."""
    return [SourceFile(**row) for row in json.loads((folder / f"{number:05d}.json").read_text(encoding="utf-8"))]
