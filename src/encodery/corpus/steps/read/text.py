"""Plain text: one document per file.

A file of more than 8 MiB is read in blocks that end at empty lines, so that memory does not grow with the file.
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
    """Plain text reader. It has no settings."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".text")

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        if source.text_bytes <= BLOCK:
            from encodery.corpus.encoding import decode

            yield decode(read_source(source), context.encoding), {}
            return
        with open_source_text(source, context.encoding) as stream:
            for number, block in enumerate(blocks(stream)):
                yield block, {"block": number}


def blocks(stream: Iterator[str]) -> Iterator[str]:
    """Yield the lines of a stream in blocks of up to about 8 Mi characters, which end at an empty line if possible."""
    lines: list[str] = []
    size = 0
    for line in _bounded_lines(stream):
        lines.append(line)
        size += len(line)
        if size >= BLOCK or (size >= BLOCK // 2 and not line.strip()):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def _bounded_lines(stream: Iterator[str]) -> Iterator[str]:
    while line := stream.readline(BLOCK):  # type: ignore[attr-defined]
        yield line
