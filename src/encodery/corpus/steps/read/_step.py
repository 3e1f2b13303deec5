"""The datatrove step around a reader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from encodery.corpus.encoding import UnusableFile
from encodery.corpus.sources import SourceFile, read_task

Skip = Callable[[str, str], None]
ReadFile = Callable[[SourceFile, Skip], Iterator[tuple[str, dict[str, Any]]]]
OWN = ("path", "format", "source", "license")


class ReadStep(PipelineStep):  # type: ignore[misc]
    """Passes on what earlier readers found, then reads the task's files of its own format.

    What cannot be read is counted in `problems/<format>-<task>.json`: (reason, path) with a number and a detail.
    """

    type = "read"

    def __init__(
        self, format_name: str, rows: ReadFile, tasks: Path, problems: Path, licence: str | dict[str, str] | None
    ) -> None:
        self.name = format_name
        super().__init__()
        self.format = format_name
        self.rows = rows
        self.tasks = tasks
        self.problems = problems
        self.licence = licence

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        if data:
            yield from data
        problems: Counter[tuple[str, str]] = Counter()
        details: dict[tuple[str, str], str] = {}
        for source in read_task(self.tasks, rank):
            if source.format != self.format:
                continue

            def skip(reason: str, detail: str, path: str = source.path) -> None:
                problems[reason, path] += 1
                details.setdefault((reason, path), detail)

            if source.slice_index == 0:
                self.stat_update("files")
            try:
                yield from self._documents(source, skip)
            except UnusableFile as error:
                # Every slice of a damaged file finds the damage; it is one file.
                if source.slice_index == 0:
                    skip(f"file {error.reason}", error.detail)
        rows = [[reason, path, count, details[reason, path]] for (reason, path), count in problems.items()]
        self.problems.mkdir(parents=True, exist_ok=True)
        target = self.problems / f"{self.format}-{rank:05d}.json"
        target.write_text(json.dumps(rows), encoding="utf-8")

    def _documents(self, source: SourceFile, skip: Skip) -> Any:
        for number, (text, said) in enumerate(self.rows(source, skip)):
            self.stat_update("documents")
            self.stat_update("characters", value=len(text))
            metadata = {key: value for key, value in said.items() if key not in OWN}
            metadata |= {
                "source": str(said.get("source") or source.origin),
                "path": source.name,
                "format": source.format,
            }
            default = self.licence.get(metadata["source"]) if isinstance(self.licence, dict) else self.licence
            if licence := said.get("license") or said.get("licence") or default:
                metadata["license"] = str(licence)
            yield Document(text=text, id=f"{source.name}:{source.slice_index}:{number}", metadata=metadata)
