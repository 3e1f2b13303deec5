"""Readers: from files of one format to texts.

datatrove's own readers stop, or continue silently, at a broken line, a wrong encoding or a damaged archive. These
readers count every problem and name the file.
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
"""A text and its metadata."""

Skip = Callable[[str, str], None]
"""Called with (reason, detail) for each row that cannot be used."""


@dataclass(frozen=True)
class ReadContext:
    """Settings that all readers of a build share.

    Attributes:
        text: the text column, or "auto".
        encoding: the encoding of text files, or "auto".
        license: the license of rows that state none; one for all, or by source.
        tasks: the folder with the file slices of each task.
        problems: the folder to which problems are written.
    """

    text: str
    encoding: str
    license: str | dict[str, str] | None
    tasks: Path
    problems: Path


class FileReader(Part):
    """Read the files of one format."""

    suffixes: ClassVar[tuple[str, ...]]
    sliceable: ClassVar[bool] = False
    """Whether `read` reads only slice `slice_index` of a file, so that several tasks can divide it."""

    @abc.abstractmethod
    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        """Yield the texts of a file with their metadata, in order and in bounded memory.

        Args:
            skip: called with a reason and a detail for each row that cannot be used.

        Raises `UnusableFile` if the file, or the rest of it, cannot be read.
        """

    def build(self, name: str, context: ReadContext) -> PipelineStep:
        """Return the datatrove step that reads the files of this format; `name` is the name of the format."""
        from encodery.corpus.steps.read._step import ReadStep

        read = functools.partial(self.read, context=context)
        return ReadStep(name, read, context.tasks, context.problems, context.license)
