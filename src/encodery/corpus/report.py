"""What happened in a build, put together from what its tasks left behind; also `report.json`'s layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.corpus.sources import FileListing

MOST_NAMED = 200
MOST_SOURCES = 100
SAMPLES = 5


@dataclass
class CorpusReport:
    """`steps`: name to counts, in order. `dropped`: step to reason to {documents, bytes, samples}.
    `problems`: reason to how often; `problem_files`: up to 200 of them by name.
    `tally`: documents and bytes by split, license, source and format."""

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
        return sum(self.tally["documents"]["split"].values())

    def metrics(self) -> dict[str, Any]:
        """What the manifest says of the corpus."""
        documents, size = self.tally["documents"]["split"], self.tally["bytes"]["split"]
        return {
            "documents": self.documents,
            "bytes": sum(size.values()),
            "heldout_documents": documents.get("heldout", 0),
            "heldout_bytes": size.get("heldout", 0),
            "dropped_documents": sum(e["documents"] for r in self.dropped.values() for e in r.values()),
        }

    def table(self) -> dict[str, Any]:
        """The contents of `report.json`."""
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
            "sources": self._by("source", MOST_SOURCES),
            "formats": self._by("format"),
            "lengths": {key: self.lengths[key] for key in sorted(self.lengths, key=int)},
            "sample": self.sample,
        }

    def _by(self, kind: str, most: int | None = None) -> dict[str, dict[str, int]]:
        documents, size = self.tally["documents"][kind], self.tally["bytes"][kind]
        order = sorted(size, key=lambda key: (-size[key], key))
        table = {key: {"documents": documents[key], "bytes": size[key]} for key in order[:most]}
        if most is not None and len(order) > most:
            rest = order[most:]
            table[f"{len(rest)} others"] = {
                "documents": sum(documents[key] for key in rest),
                "bytes": sum(size[key] for key in rest),
            }
        return table

    def why_empty(self) -> str:
        """One sentence naming what removed everything."""
        reasons = Counter(self.problems)
        for entries in self.dropped.values():
            reasons.update({reason: entry["documents"] for reason, entry in entries.items()})
        return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(6)) or "the files hold no text."


def _stats(work: Path, name: str) -> list[list[dict[str, Any]]]:
    folder = work / "logs" / name.replace(" ", "_") / "stats"
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _totals(tasks: list[list[dict[str, Any]]], number: int) -> dict[str, float]:
    """The summed counters of the step at a place in its pipeline. No times: equal builds have equal reports."""
    counts: Counter[str] = Counter()
    for steps in tasks:
        for key, value in steps[number]["stats"].items():
            counts[key] += value["total"] if isinstance(value, dict) else value
    return {key: count for key, count in counts.items() if key != "doc_len"}


def cleaned_count(work: Path, names: list[str]) -> int:
    """Documents that came through the reading pass."""
    return int(_totals(_stats(work, "read and filter"), names.index("clean")).get("total", 0))


def collect_report(work: Path, names: list[str], found: FileListing, dedups: list[str], below: float) -> CorpusReport:
    """Put the report of a finished build together."""
    report = CorpusReport(len(found.files), found.bytes, found.skipped, found.skipped_files, below)
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
        for reason, where, count, detail in json.loads(path.read_text(encoding="utf-8")):
            report.problems[reason] += count
            if len(report.problem_files) < MOST_NAMED:
                report.problem_files.append({"reason": reason, "path": where, "count": count, "detail": detail})


def _add_tally(report: CorpusReport, folder: Path) -> None:
    merged: dict[str, dict[str, Counter[str]]] = {"documents": {}, "bytes": {}}
    for path in sorted(folder.glob("*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        for measure in merged:
            for kind, counts in table[measure].items():
                merged[measure].setdefault(kind, Counter()).update(counts)
        report.lengths.update(table["lengths"])
        if table["sample"] and len(report.sample) < SAMPLES:
            report.sample.append(table["sample"])
    report.tally = {measure: {kind: dict(c) for kind, c in kinds.items()} for measure, kinds in merged.items()}
