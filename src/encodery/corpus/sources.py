"""What is to be read: sources (folders, globs, files) to a sorted list of files, dealt to tasks.

Which task reads what depends on the files and their sizes only, never on the number of workers: the same documents
come out on any machine.
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
EXPANSION = 4  # Bytes of text per byte of a compressed file, for sharing out work.
TASK_BYTES = 8 << 20
MAX_TASKS = 4096
MAX_SLICES = 4  # Of a file that each slice must decompress from its beginning.
# What a text file without a known format wears; anything else below a folder is counted and left out.
PLAIN_SUFFIXES = frozenset(("", ".log", ".debian", ".asc"))
PLAIN_NAMES = ("readme", "news", "changes", "changelog", "copying", "copyright", "license", "licence", "authors")


@dataclass(frozen=True)
class SourceFile:
    """One file, or the slice `part` of `parts` of it. `source`: the package, folder or file the reader sees as its
    origin. `name`: the path relative to what the user gave."""

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
        """Estimate of the bytes of text in this slice."""
        return self.bytes * (EXPANSION if self.compression else 1) // self.num_slices


@dataclass(frozen=True)
class FileListing:
    """`files`: what will be read, in order. `left_out`: reason and number of files passed over.
    `named`: up to a hundred of those, as `reason: path`."""

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, int]
    skipped_files: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, renamed or rewritten."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(json.dumps([file.name, file.format, file.bytes, file.modified]).encode())
        return digest.hexdigest()[:32]


def list_files(sources: Iterable[str | Path], suffixes: Mapping[str, str], avoid: Iterable[Path] = ()) -> FileListing:
    """The files of the sources. `suffixes` maps `.md` to the name of its reader; `avoid` are folders not entered.

    Raises `InputError` for a source that is not there, `EmptyInput` when nothing readable is found.
    """
    given = [str(source) for source in sources]
    left_out: Counter[str] = Counter()
    named: list[str] = []
    seen: set[str] = set()
    files: list[SourceFile] = []
    walled = {str(Path(path).resolve()) for path in avoid}
    for source in given:
        for path, name, origin, chosen in _expand(source, walled):
            real = os.path.realpath(path)
            found = "read twice" if real in seen else _describe(path, name, origin, suffixes, chosen)
            seen.add(real)
            if isinstance(found, str):
                left_out[found] += 1
                if len(named) < 100:
                    named.append(f"{found}: {path}")
            else:
                files.append(found)
    if not files:
        passed = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(5))
        raise EmptyInput(
            f"Nothing to read in {', '.join(given) or 'no sources'}: "
            + (f"{sum(left_out.values())} files passed over ({passed})." if left_out else "no files.")
            + f" Formats read: {', '.join(sorted(suffixes))}, each also .gz .zst .xz .bz2."
        )
    return FileListing(tuple(files), dict(left_out), tuple(named))


def _expand(source: str, walled: set[str]) -> Iterator[tuple[str, str, str, bool]]:
    """(path, name, origin, whether the user named this very file) of each file of a source."""
    expanded = os.path.expanduser(source)
    if os.path.isdir(expanded):
        yield from _walk(expanded, walled)
    elif os.path.exists(expanded):
        yield expanded, os.path.basename(expanded), _stem(expanded), True
    elif glob.has_magic(expanded):
        found = sorted(glob.glob(expanded, recursive=True))
        if not found:
            raise InputError(f"{source}: no file matches.")
        for path in found:
            if os.path.isdir(path):
                yield from _walk(path, walled)
            else:
                yield path, os.path.basename(path), _stem(path), True
    else:
        parent = Path(expanded).parent
        beside = [str(p) for p in sorted(parent.iterdir())] if parent.is_dir() else []
        raise InputError(f"{source}: no such file or folder.{nearest(expanded, beside)}")


def _walk(folder: str, walled: set[str]) -> Iterator[tuple[str, str, str, bool]]:
    root = Path(folder)
    origin = root.resolve().name
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and os.path.realpath(os.path.join(where, f)) not in walled
        )
        # Links come last, so that a file is read under its own name.
        for _, name in sorted((os.path.islink(os.path.join(where, name)), name) for name in names):
            if name.startswith("."):
                continue
            path = os.path.join(where, name)
            inside = os.path.relpath(path, folder)
            first = Path(inside).parts[0]
            yield path, inside, first if os.sep in inside else origin, False


def _stem(path: str) -> str:
    return os.path.basename(path).split(".")[0] or os.path.basename(path)


def _describe(path: str, name: str, origin: str, suffixes: Mapping[str, str], chosen: bool) -> SourceFile | str:
    """The source at a path, or why it is left out."""
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
        if not (chosen or suffix.lower() in PLAIN_SUFFIXES or base.lower().startswith(PLAIN_NAMES)):
            return f"format {suffix.lower()}"
        kind = suffixes.get(".txt")
        if kind is None:
            return f"format {suffix.lower() or 'without suffix'}"
    if kind == "parquet" and compression:
        return "format .parquet inside an archive"
    return SourceFile(path, name, origin, kind, compression, stat.st_size, stat.st_mtime_ns)


def assign_tasks(files: Iterable[SourceFile], sliceable: Iterable[str]) -> list[list[SourceFile]]:
    """The slices each task reads: contiguous runs of files of about equal bytes; large row files are cut.

    `sliced`: formats whose files several tasks may share.
    """
    shared = set(sliceable)
    slices = [piece for file in files for piece in _slices(file, file.format in shared)]
    total = sum(piece.text_bytes for piece in slices)
    count = max(1, min(MAX_TASKS, -(-total // TASK_BYTES), len(slices)))
    tasks: list[list[SourceFile]] = [[] for _ in range(count)]
    before = 0
    for piece in slices:
        middle = before + piece.text_bytes / 2
        tasks[min(count - 1, int(middle * count / max(total, 1)))].append(piece)
        before += piece.text_bytes
    return [task for task in tasks if task]


def _slices(file: SourceFile, may_share: bool) -> list[SourceFile]:
    count = -(-file.text_bytes // TASK_BYTES) if may_share else 1
    if file.compression or file.format != "jsonl":
        count = min(count, MAX_SLICES)
    return [replace(file, slice_index=part, num_slices=count) for part in range(count)]


def write_tasks(folder: Path, tasks: list[list[SourceFile]]) -> None:
    """One JSON file a task, so that a worker loads its own share only."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tasks):
        (folder / f"{number:05d}.json").write_text(json.dumps([asdict(piece) for piece in task]), encoding="utf-8")


def read_task(folder: Path, number: int) -> list[SourceFile]:
    """What `write_tasks` wrote for a task."""
    return [SourceFile(**row) for row in json.loads((folder / f"{number:05d}.json").read_text(encoding="utf-8"))]
