"""The report of a build, collected from the files of its tasks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from encodery.corpus.report import MAX_PROBLEM_FILES, MAX_SOURCES, CorpusReport, cleaned_count, collect_report
from encodery.corpus.sources import FileListing, SourceFile

NAMES = ["read text", "read csv", "filter length", "clean"]
FILE = SourceFile("/in/a.txt", "a.txt", "in", "text", "", 100, 0)
LISTING = FileListing((FILE, FILE), {"empty": 1}, ("empty: /in/b.txt",))


def write(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


def stats(**counts: Any) -> dict[str, Any]:
    return {"stats": {**counts, "doc_len": {"total": 9}}}


def tally(train: int, heldout: int, source: str, sample: str = "") -> dict[str, Any]:
    counts = {
        "split": {"train": train, "heldout": heldout},
        "license": {"MIT": train + heldout},
        "source": {source: train + heldout},
        "format": {"text": train + heldout},
    }
    sizes = {key: {value: 10 * count for value, count in by.items()} for key, by in counts.items()}
    return {"documents": counts, "bytes": sizes, "lengths": {"8": train, "16": heldout}, "sample": sample}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The files that two tasks of a build leave."""
    for task in range(2):
        steps = [stats(files=1, documents={"total": 5}), stats(), stats(total=5, forwarded=4), stats(total=4)]
        write(tmp_path / "logs" / "read_and_filter" / "stats" / f"{task}.json", steps)
        write(tmp_path / "logs" / "write" / "stats" / f"{task}.json", [stats(total=4), stats(dropped=1), stats()])
        short = {"documents": 1, "bytes": 7, "samples": [{"path": f"{task}", "text": str(n)} for n in range(3)]}
        write(tmp_path / "dropped" / f"filter length-{task:05d}.json", {"too_short": short})
        write(tmp_path / "tally" / f"{task:05d}.json", tally(3, task, f"source {task}", f"sample {task}"))
    write(tmp_path / "dropped" / "dedup exact-00000.json", {"duplicate": {"documents": 2, "bytes": 8, "samples": []}})
    write(tmp_path / "problems" / "text-00000.json", [["broken row", "/in/a.txt", 3, "row 7"]])
    return tmp_path


def test_the_counts_of_all_tasks_are_added(work: Path) -> None:
    report = collect_report(work, NAMES, LISTING, ["exact"], 0.25)
    assert cleaned_count(work, NAMES) == 8
    assert list(report.steps) == ["read text", "filter length", "clean", "dedup exact"], "no step of an unused reader"
    assert report.steps["read text"] == {"files": 2, "documents": 10}, "lengths of documents are no count"
    assert report.steps["dedup exact"] == {"dropped": 2}
    assert list(report.dropped) == ["filter length", "dedup exact"], "in the order of the steps"
    length = report.dropped["filter length"]["too_short"]
    assert (length["documents"], length["bytes"], len(length["samples"])) == (2, 14, 5)
    assert report.problems == {"broken row": 3}
    assert report.documents == 7
    assert report.lengths == {"8": 6, "16": 1}
    assert report.sample == ["sample 0", "sample 1"]


def test_the_table_is_the_layout_of_the_file(work: Path) -> None:
    table = collect_report(work, NAMES, LISTING, ["exact"], 0.25).table()
    assert table["metrics"] == {
        "documents": 7,
        "bytes": 70,
        "heldout_documents": 1,
        "heldout_bytes": 10,
        "dropped_documents": 4,
    }
    assert table["input"] == {
        "files": 2,
        "bytes": 200,
        "skipped": {"empty": 1},
        "skipped_files": ["empty: /in/b.txt"],
        "problems": {"broken row": 3},
        "problem_files": [{"reason": "broken row", "path": "/in/a.txt", "count": 3, "detail": "row 7"}],
    }
    assert table["heldout"] == {"threshold": 0.25}
    assert list(table["sources"]) == ["source 1", "source 0"], "largest first"
    assert list(table["lengths"]) == ["8", "16"], "in numeric order"
    assert json.loads(json.dumps(table)) == table


def test_many_sources_and_problems_are_summarised(work: Path) -> None:
    count = MAX_SOURCES + 5
    many = {f"source {n:03d}": n + 1 for n in range(count)}
    table = tally(0, 0, "x")
    table["documents"]["source"], table["bytes"]["source"] = many, many
    write(work / "tally" / "00000.json", table)
    (work / "tally" / "00001.json").unlink()
    write(work / "problems" / "text-00000.json", [["broken row", f"/in/{n}", 1, ""] for n in range(300)])
    report = collect_report(work, NAMES, LISTING, ["exact"], 0.0)
    sources = report.table()["sources"]
    assert len(sources) == MAX_SOURCES + 1
    assert sources["5 others"] == {"documents": 15, "bytes": 15}, "the smallest ones"
    assert report.problems["broken row"] == 300
    assert len(report.problem_files) == MAX_PROBLEM_FILES


def test_an_empty_corpus_states_the_reasons_most_frequent_first() -> None:
    report = CorpusReport(1, 10, {}, (), 0.0)
    assert report.why_empty() == "the files contain no text."
    report.problems = Counter({"file binary": 2})
    report.dropped = {"filter length": {"too_short": {"documents": 5}}, "filter x": {"rare": {"documents": 1}}}
    assert report.why_empty() == "5 too_short, 2 file binary, 1 rare"
