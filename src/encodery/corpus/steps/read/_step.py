"""The datatrove step that runs a reader."""

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
RESERVED = ("path", "format", "source", "license")  # Keys of the metadata that the step sets.


class ReadStep(PipelineStep):  # type: ignore[misc]
    """Yield the documents of earlier readers, then those of the task's files in this reader's format.

    Problems are written to `problems/<format>-<task>.json` as rows of reason, path, count and detail.
    """

    type = "read"

    def __init__(
        self, format_name: str, read: ReadFile, tasks: Path, problems: Path, licence: str | dict[str, str] | None
    ) -> None:
        self.name = format_name
        super().__init__()
        self.format = format_name
        self.read = read
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
                # Every slice of a damaged file meets the damage, but only the first one counts it.
                if source.slice_index == 0:
                    skip(f"file {error.reason}", error.detail)
        table = [[reason, path, count, details[reason, path]] for (reason, path), count in problems.items()]
        self.problems.mkdir(parents=True, exist_ok=True)
        target = self.problems / f"{self.format}-{rank:05d}.json"
        target.write_text(json.dumps(table), encoding="utf-8")

    def _documents(self, source: SourceFile, skip: Skip) -> Any:
        for number, (text, row) in enumerate(self.read(source, skip)):
            self.stat_update("documents")
            self.stat_update("characters", value=len(text))
            metadata = {key: value for key, value in row.items() if key not in RESERVED}
            metadata |= {
                "source": str(row.get("source") or source.origin),
                "path": source.name,
                "format": source.format,
            }
            default = self.licence.get(metadata["source"]) if isinstance(self.licence, dict) else self.licence
            if licence := row.get("license") or row.get("licence") or default:
                metadata["license"] = str(licence)
            yield Document(text=text, id=f"{source.name}:{source.slice_index}:{number}", metadata=metadata)
