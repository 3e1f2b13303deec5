"""The report of a corpus build, collected from the files that its tasks wrote; defines the layout of `report.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.corpus.sources import FileListing

MAX_PROBLEM_FILES = 200
MAX_SOURCES = 100
SAMPLES = 5


@dataclass
class CorpusReport:
    """The report of a corpus build.

    Attributes:
        files, input_bytes: number and size of the files that were read.
        skipped, skipped_files: reason -> number of files that were not read, and up to 100 of them.
        heldout_threshold: documents whose hash position is below it are held out.
        steps: name of a step -> counts, in order.
        dropped: step -> reason -> {documents, bytes, samples}.
        problems, problem_files: reason -> number of problems, and up to 200 of the files.
        tally: documents and bytes by split, license, source and format.
        lengths: upper edge in bytes -> number of documents.
    """

    files: int
    input_bytes: int
    skipped: Mapping[str, int]
    skipped_files: tuple[str, ...]
    heldout_threshold: float
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    problem_files: list[dict[str, Any]] = field(default_factory=list)
    tally: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    lengths: Counter[str] = field(default_factory=Counter)
    sample: list[dict[str, Any]] = field(default_factory=list)

    @property
    def documents(self) -> int:
        return sum(self.tally["documents"].get("split", {}).values())

    def metrics(self) -> dict[str, Any]:
        """Return the metrics that are stored in the manifest of the corpus."""
        documents, size = self.tally["documents"]["split"], self.tally["bytes"]["split"]
        return {
            "documents": self.documents,
            "bytes": sum(size.values()),
            "heldout_documents": documents.get("heldout", 0),
            "heldout_bytes": size.get("heldout", 0),
            "dropped_documents": sum(e["documents"] for r in self.dropped.values() for e in r.values()),
        }

    def table(self) -> dict[str, Any]:
        """Return the contents of `report.json`."""
        return {
            "metrics": self.metrics(),
            "input": {
                "files": self.files,
                "bytes": self.input_bytes,
                "skipped": dict(self.skipped),
                "skipped_files": list(self.skipped_files),
                "problems": dict(self.problems),
                "problem_files": self.problem_files,
            },
            "steps": self.steps,
            "dropped": self.dropped,
            "heldout": {"threshold": self.heldout_threshold},
            "licenses": self._by("license"),
            "sources": self._by("source", MAX_SOURCES),
            "formats": self._by("format"),
            "lengths": {key: self.lengths[key] for key in sorted(self.lengths, key=int)},
            "sample": self.sample,
        }

    def _by(self, key: str, limit: int | None = None) -> dict[str, dict[str, int]]:
        documents, size = self.tally["documents"][key], self.tally["bytes"][key]
        order = sorted(size, key=lambda value: (-size[value], value))
        table = {value: {"documents": documents[value], "bytes": size[value]} for value in order[:limit]}
        if limit is not None and len(order) > limit:
            rest = order[limit:]
            table[f"{len(rest)} others"] = {
                "documents": sum(documents[value] for value in rest),
                "bytes": sum(size[value] for value in rest),
            }
        return table

    def why_empty(self) -> str:
        """Return the reasons for which all documents were removed, most frequent first."""
        reasons = Counter(self.problems)
        for entries in self.dropped.values():
            reasons.update({reason: entry["documents"] for reason, entry in entries.items()})
        return (
            ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(6)) or "the files contain no text."
        )


def _stats(work: Path, name: str) -> list[list[dict[str, Any]]]:
    folder = work / "logs" / name.replace(" ", "_") / "stats"
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _totals(tasks: list[list[dict[str, Any]]], number: int) -> dict[str, float]:
    """Return the summed counters of a step, by its number in the pass, without times."""
    counts: Counter[str] = Counter()
    for steps in tasks:
        for key, value in steps[number]["stats"].items():
            counts[key] += value["total"] if isinstance(value, dict) else value
    return {key: count for key, count in counts.items() if key != "doc_len"}


def cleaned_count(work: Path, names: list[str]) -> int:
    """Return the number of documents that the reading pass kept."""
    return int(_totals(_stats(work, "read and filter"), names.index("clean")).get("total", 0))


def collect_report(
    work: Path, names: list[str], listing: FileListing, dedups: list[str], threshold: float
) -> CorpusReport:
    """Return the report of a finished build.

    Args:
        work: the folder in which the tasks wrote their counts.
        names: the names of the steps of the reading pass.
        listing: the files of the build.
        dedups: the names of the deduplication methods.
        threshold: the held-out threshold.
    """
    report = CorpusReport(len(listing.files), listing.bytes, listing.skipped, listing.skipped_files, threshold)
    tasks = _stats(work, "read and filter")
    for number, name in enumerate(names):
        totals = _totals(tasks, number)
        if not name.startswith("read ") or totals.get("files"):
            report.steps[name] = totals
    written = _stats(work, "write")
    for number, name in enumerate(dedups, start=1):
        report.steps[f"dedup {name}"] = _totals(written, number)
    _add_dropped(report, work / "dropped", [*names, *(f"dedup {name}" for name in dedups)])
    _add_problems(report, work / "problems")
    _add_tally(report, work / "tally")
    return report


def _add_dropped(report: CorpusReport, folder: Path, order: list[str]) -> None:
    for path in sorted(folder.glob("*.json"), key=lambda p: (order.index(p.stem.rsplit("-", 1)[0]), p.name)):
        reasons = report.dropped.setdefault(path.stem.rsplit("-", 1)[0], {})
        for reason, entry in json.loads(path.read_text(encoding="utf-8")).items():
            total = reasons.setdefault(reason, {"documents": 0, "bytes": 0, "samples": []})
            total["documents"] += entry["documents"]
            total["bytes"] += entry["bytes"]
            total["samples"] = (total["samples"] + entry["samples"])[:SAMPLES]


def _add_problems(report: CorpusReport, folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        for reason, file, count, detail in json.loads(path.read_text(encoding="utf-8")):
            report.problems[reason] += count
            if len(report.problem_files) < MAX_PROBLEM_FILES:
                report.problem_files.append({"reason": reason, "path": file, "count": count, "detail": detail})


def _add_tally(report: CorpusReport, folder: Path) -> None:
    merged: dict[str, dict[str, Counter[str]]] = {"documents": {}, "bytes": {}}
    for path in sorted(folder.glob("*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        for measure in merged:
            for key, counts in table[measure].items():
                merged[measure].setdefault(key, Counter()).update(counts)
        report.lengths.update(table["lengths"])
        if table["sample"] and len(report.sample) < SAMPLES:
            report.sample.append(table["sample"])
    report.tally = {measure: {key: dict(c) for key, c in by_key.items()} for measure, by_key in merged.items()}
