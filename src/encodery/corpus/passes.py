"""The runs of the executor that make a corpus, as lists of datatrove steps.

read: files → rewrites → filters → `clean/` (one file a task). Then the passes of each way to find duplicates over
the cleaned documents. Then write: cleaned documents → drop duplicates → `train/` and `heldout/`.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from encodery.corpus.exclusion_log import ExclusionLog
from encodery.corpus.heldout import hash_position, text_id
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.shard_writer import CorpusShardWriter
from encodery.corpus.shards import read_documents
from encodery.corpus.steps.dedup import Pass
from encodery.corpus.steps.read import ReadContext

LENGTHS = tuple(2**k for k in range(3, 25))
SAMPLE_CHARACTERS = 500


def reading_pass(settings: CorpusSettings, work: Path) -> tuple[Pass, list[str]]:
    """Files to cleaned documents, and what each of its steps is called in the report."""
    reading = ReadContext(settings.text, settings.encoding, settings.license, work / "tasks", work / "problems")
    named: list[tuple[str, PipelineStep]] = []
    for name, reader in settings.read.items():
        if name in settings.skip:
            continue
        named.append((f"read {name}", reader.build(name, reading)))
    for name, rewrite in settings.rewrite.items():
        if name not in settings.skip:
            named.append((f"rewrite {name}", rewrite.build(name)))
    for name, chosen in settings.filter.items():
        if name not in settings.skip:
            named.append((f"filter {name}", chosen.build(ExclusionLog(work / "dropped", f"filter {name}"))))
    named.append(("clean", CorpusShardWriter(str(work / "clean"), "${rank}")))
    return Pass("read and filter", [step for _, step in named]), [name for name, _ in named]


def duplicate_passes(settings: CorpusSettings, work: Path) -> list[Pass]:
    """The passes that find duplicates, each over what the parts before it leave."""
    passes: list[Pass] = []
    before: list[str] = []
    for name, part in settings.dedup.items():
        if name in settings.skip:
            continue
        for each in part.passes(str(work / "dedup" / name)):
            start = deduplicated_steps(settings, work, before) if each.documents else []
            passes.append(Pass(each.name, [*start, *each.steps], each.documents, each.tasks))
        before.append(name)
    return passes


def deduplicated_steps(
    settings: CorpusSettings, work: Path, parts: list[str], record: bool = False
) -> list[PipelineStep]:
    """Steps that yield a task's cleaned documents without the duplicates found by `parts`."""
    steps: list[PipelineStep] = [ReadCleanStep(work / "clean")]
    for name in parts:
        dropped = ExclusionLog(work / "dropped", f"dedup {name}") if record else None
        steps.append(settings.dedup[name].build(str(work / "dedup" / name), dropped))
    return steps


def active_dedups(settings: CorpusSettings) -> list[str]:
    """The names of the ways to find duplicates that are not skipped."""
    return [name for name in settings.dedup if name not in settings.skip]


def position_pass(settings: CorpusSettings, work: Path, count: int) -> Pass:
    """Collects the smallest `count` + 1 positions of each task, from which the held-out threshold follows."""
    steps = deduplicated_steps(settings, work, active_dedups(settings))
    return Pass("held-out threshold", [*steps, SmallestPositionsStep(work / "positions", count + 1)])


def writing_pass(settings: CorpusSettings, work: Path, out: Path, below: float) -> Pass:
    """The surviving documents to the splits, tallied."""
    steps = deduplicated_steps(settings, work, active_dedups(settings), record=True)
    writer = CorpusShardWriter(str(out), "${split}/${rank}")
    return Pass("write", [*steps, SplitStep(below, work / "tally"), writer])


class ReadCleanStep(PipelineStep):  # type: ignore[misc]
    """Reads back the file that the reading pass wrote for this task; a task without documents has none."""

    type = "read"
    name = "clean"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        path = self.folder / f"{rank:05d}.jsonl.zst"
        for document in read_documents([path]) if path.is_file() else ():
            self.stat_update("total")
            yield Document(text=document.text, id=document.id, metadata=document.metadata)


class SmallestPositionsStep(PipelineStep):  # type: ignore[misc]
    """Writes how many documents a task has and their smallest positions; yields nothing."""

    type = "split"
    name = "positions"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__()
        self.folder = folder
        self.count = count

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        seen = itertools.count()
        places = (hash_position(text_id(document.text)) for document, _ in zip(data, seen, strict=False))
        smallest = heapq.nsmallest(self.count, places)
        self.folder.mkdir(parents=True, exist_ok=True)
        table = {"documents": next(seen), "positions": smallest}
        (self.folder / f"{rank:05d}.json").write_text(json.dumps(table), encoding="utf-8")


class SplitStep(PipelineStep):  # type: ignore[misc]
    """Gives each document its id and its split, and tallies what goes where."""

    type = "split"
    name = "split"

    def __init__(self, below: float, folder: Path) -> None:
        super().__init__()
        self.below = below
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        tally = CorpusTally()
        for document in data:
            document.id = text_id(document.text)
            document.metadata["split"] = "heldout" if hash_position(document.id) < self.below else "train"
            tally.add(document)
            yield document
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{rank:05d}.json").write_text(json.dumps(tally.table()), encoding="utf-8")


class CorpusTally:
    """What a task wrote: documents and bytes by split, licence, source and format; lengths; a sample."""

    KINDS = ("split", "license", "source", "format")

    def __init__(self) -> None:
        self.documents = {kind: Counter[str]() for kind in self.KINDS}
        self.bytes = {kind: Counter[str]() for kind in self.KINDS}
        self.lengths: Counter[int] = Counter()
        self.sample: dict[str, Any] = {}

    def add(self, document: Document) -> None:
        size = len(document.text.encode("utf-8", "surrogatepass"))
        for kind in self.KINDS:
            value = document.metadata.get(kind, "not stated")
            self.documents[kind][value] += 1
            self.bytes[kind][value] += size
        self.lengths[next((edge for edge in LENGTHS if size <= edge), LENGTHS[-1])] += 1
        if not self.sample:
            self.sample = {
                "id": document.id,
                "text": document.text[:SAMPLE_CHARACTERS],
                "metadata": document.metadata,
            }

    def table(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "lengths": self.lengths,
            "sample": self.sample,
        }
