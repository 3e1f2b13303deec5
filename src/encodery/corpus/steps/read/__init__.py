"""Readers: one file format each, to texts.

datatrove's own readers stop or go on silently at a broken line, a wrong encoding or a damaged archive; these count
each and name the file.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from encodery.base.parts import Part
from encodery.corpus.sources import SourceFile

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

RawDocument = tuple[str, dict[str, Any]]
"""A text and what its file says of it."""

Skip = Callable[[str, str], None]
"""Called with (reason, detail) for each row that cannot be used."""


@dataclass(frozen=True)
class ReadContext:
    """What all readers are told: the text column, the encoding, a licence for rows that name none (or one by
    source), the folder of task lists and the folder for what could not be read."""

    text: str
    encoding: str
    license: str | dict[str, str] | None
    tasks: Path
    problems: Path


class FileReader(Part):
    """Reads one format."""

    suffixes: ClassVar[tuple[str, ...]]
    sliceable: ClassVar[bool] = False
    """Whether `rows` honours `source.part`, so that several tasks can share a file."""

    @abc.abstractmethod
    def read(self, source: SourceFile, skip: Skip, reading: ReadContext) -> Iterator[RawDocument]:
        """The texts of a file, in order, in bounded memory.

        Raises `Unusable` when the file, or what is left of it, cannot be read.
        """

    def build(self, name: str, reading: ReadContext) -> PipelineStep:
        """The datatrove step that reads a task's files of this format; `name` is the format's."""
        from encodery.corpus.steps.read._step import ReadStep

        rows = functools.partial(self.read, reading=reading)
        return ReadStep(name, rows, reading.tasks, reading.problems, reading.license)
