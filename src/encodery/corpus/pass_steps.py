"""The datatrove steps of the passes: read cleaned documents, collect split positions, assign splits."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from encodery.corpus.heldout import hash_position, text_id
from encodery.corpus.shards import read_documents
from encodery.corpus.tally import CorpusTally


class ReadCleanStep(PipelineStep):  # type: ignore[misc]
    """Read the file that the reading pass wrote for this task; a task without documents has no file."""

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
    """Write the number of documents of a task and their `count` smallest positions; yields nothing."""

    type = "split"
    name = "positions"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__()
        self.folder = folder
        self.count = count

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        seen = itertools.count()
        positions = (hash_position(text_id(document.text)) for document, _ in zip(data, seen, strict=False))
        smallest = heapq.nsmallest(self.count, positions)
        self.folder.mkdir(parents=True, exist_ok=True)
        table = {"documents": next(seen), "positions": smallest}
        (self.folder / f"{rank:05d}.json").write_text(json.dumps(table), encoding="utf-8")


class SplitStep(PipelineStep):  # type: ignore[misc]
    """Give each document its id and its split, and write a tally of the task."""

    type = "split"
    name = "split"

    def __init__(self, threshold: float, folder: Path) -> None:
        super().__init__()
        self.threshold = threshold
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        tally = CorpusTally()
        for document in data:
            document.id = text_id(document.text)
            document.metadata["split"] = "heldout" if hash_position(document.id) < self.threshold else "train"
            tally.add(document)
            yield document
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{rank:05d}.json").write_text(json.dumps(tally.table()), encoding="utf-8")
