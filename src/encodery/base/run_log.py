"""The log of a run: one JSON object a line, appended and flushed, readable while it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from encodery.base.artifact import translate_disk_full


class RunLog:
    """Appends lines to a log file. A torn last line (a killed run) is cut before appending."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _cut_torn_line(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Append one line. Floats keep their full precision, so equal logs mean equal runs."""
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
    """The lines of a log; a torn last line is left out."""
    text = Path(path).read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line]


def truncate_log(path: str | Path, predicate: Any) -> None:
    """Keep only the lines for which `keep(line)` holds: a resumed run drops what came after its checkpoint."""
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
