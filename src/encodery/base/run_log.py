"""The log of a run: one JSON object per line, flushed after each line, so that it can be read while it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from encodery.base.artifact import translate_disk_full


class RunLog:
    """Append lines to a log file. An incomplete last line, left by a killed run, is removed first."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _cut_torn_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Append one line. Floats keep their full precision, so that equal logs mean equal runs."""
        with translate_disk_full(self.path):
            self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a log; an incomplete last line is omitted."""
    text = Path(path).read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines() if line]


def truncate_log(path: str | Path, predicate: Any) -> None:
    """Keep only the lines for which `predicate(line)` is true: a resumed run drops those after its checkpoint."""
    target = Path(path)
    lines: list[Mapping[str, Any]] = [line for line in read_log(target) if predicate(line)]
    draft = target.with_name(f".{target.name}.draft")
    draft.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    draft.replace(target)


def _cut_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with path.open("r+b") as file:
            file.truncate(end)
