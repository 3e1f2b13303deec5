"""An exclusion writer for datatrove's filters: it counts the dropped documents by reason and keeps a few samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAMPLES = 3
SAMPLE_CHARACTERS = 300


class ExclusionLog:
    """Count the documents that a step drops, in place of datatrove's exclusion writer.

    When the step ends it writes `<step>-<task>.json`: reason -> {documents, bytes, samples}.
    """

    def __init__(self, folder: Path, step: str) -> None:
        self.folder = folder
        self.step = step
        self.rank = 0
        self.reasons: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> ExclusionLog:
        self.reasons = {}
        return self

    def write(self, document: Any, rank: int = 0) -> None:
        """Count a dropped document under the `filter_reason` of its metadata."""
        self.rank = rank
        reason = str(document.metadata.get("filter_reason") or "duplicate")
        entry = self.reasons.setdefault(reason, {"documents": 0, "bytes": 0, "samples": []})
        entry["documents"] += 1
        entry["bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
        if len(entry["samples"]) < SAMPLES:
            path = document.metadata.get("path", "")
            entry["samples"].append({"path": path, "text": document.text[:SAMPLE_CHARACTERS]})

    def __exit__(self, kind: object, error: object, at: object) -> None:
        if kind is None and self.reasons:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / f"{self.step}-{self.rank:05d}.json"
            target.write_text(json.dumps(self.reasons), encoding="utf-8")
