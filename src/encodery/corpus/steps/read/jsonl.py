"""JSON lines: one document per row. A row that is not valid JSON, or has no text, is counted and skipped."""

from __future__ import annotations

import codecs
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

from encodery.corpus.columns import HEAD_ROWS, metadata_of, text_column
from encodery.corpus.encoding import HEAD, UnusableFile, decode, detect, is_binary
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import open_source

BLOCK_ROWS = 64
MAX_LINE_LENGTH = 256 << 20


@dataclass(frozen=True, kw_only=True)
class JsonlReader(FileReader):
    """JSON lines reader. It has no settings; the text column is a setting of the corpus."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".jsonlines")
    sliceable: ClassVar[bool] = True

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        column = _column(source, context)
        with open_source(source) as stream:
            for position, line in _slice(source, _recoded(stream, context.encoding)):
                if not line.strip():
                    continue
                row = _parsed(line, skip, position)
                if row is None:
                    continue
                text = row.get(column)
                if not isinstance(text, str) or not text:
                    skip("row without text", f"{position}: column '{column}'")
                    continue
                yield text, metadata_of(row, column)


def _column(source: SourceFile, context: ReadContext) -> str:
    with open_source(source) as stream:
        lines = itertools.islice(_lines(_recoded(stream, context.encoding)), HEAD_ROWS)
        rows = [row for line in lines if (row := _parsed(line, lambda reason, detail: None, ""))]
    if not rows:
        raise UnusableFile("no_rows", f"no JSON object in the first {HEAD_ROWS} lines")
    return text_column(rows, context.text)


def _recoded(stream: BinaryIO, encoding: str) -> BinaryIO:
    """Return the stream as UTF-8 bytes without a byte-order mark."""
    head = stream.peek(HEAD)[:HEAD] if hasattr(stream, "peek") else b""
    try:
        name = detect(head, encoding)
    except UnusableFile:
        if is_binary(head):
            raise
        return stream
    if name == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    if name.startswith(("utf-16", "utf-32")):
        return codecs.EncodedFile(stream, "utf-8", name)
    return stream


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MAX_LINE_LENGTH):
        yield line


def _slice(source: SourceFile, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield (position, line) of a slice: a range of bytes, or every n-th block of rows of a compressed file."""
    if source.num_slices == 1 or source.compression or isinstance(stream, codecs.StreamRecoder):
        for number, line in enumerate(_lines(stream)):
            if number // BLOCK_ROWS % source.num_slices == source.slice_index:
                yield f"line {number + 1}", line
        return
    start, end = (source.bytes * part // source.num_slices for part in (source.slice_index, source.slice_index + 1))
    if start:
        # A line belongs to the slice in which it starts.
        stream.seek(start - 1, os.SEEK_SET)
        stream.readline()
    while (at := stream.tell()) < end and (line := stream.readline(MAX_LINE_LENGTH)):
        yield f"byte {at}", line


def _parsed(line: bytes, skip: Skip, position: str) -> dict[str, Any] | None:
    import orjson

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            row = orjson.loads(decode(line))
        except (orjson.JSONDecodeError, UnusableFile):
            skip("broken row", f"{position}: {error}")
            return None
    if not isinstance(row, dict):
        skip("broken row", f"{position}: not an object")
        return None
    return row
