"""Plain text: one document a file.

A file beyond 8 MiB is read in blocks cut at empty lines, so that no file needs memory in proportion to its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import open_source_text, read_source

BLOCK = 8 << 20


@dataclass(frozen=True, kw_only=True)
class TextReader(FileReader):
    """Has no settings."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".text")

    def read(self, source: SourceFile, skip: Skip, reading: ReadContext) -> Iterator[RawDocument]:
        if source.text_bytes <= BLOCK:
            from encodery.corpus.encoding import decode

            yield decode(read_source(source), reading.encoding), {}
            return
        with open_source_text(source, reading.encoding) as stream:
            for number, block in enumerate(blocks(stream)):
                yield block, {"block": number}


def blocks(stream: Iterator[str]) -> Iterator[str]:
    """The lines of a stream in blocks of at most about 8 Mi characters, cut at an empty line where there is one."""
    lines: list[str] = []
    size = 0
    for line in _short(stream):
        lines.append(line)
        size += len(line)
        if size >= BLOCK or (size >= BLOCK // 2 and not line.strip()):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def _short(stream: Iterator[str]) -> Iterator[str]:
    while line := stream.readline(BLOCK):  # type: ignore[attr-defined]
        yield line
