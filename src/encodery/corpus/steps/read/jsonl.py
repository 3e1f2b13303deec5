"""JSON lines: one document a row. A row that is no JSON, or has no text, is counted and passed over."""

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
LONGEST_LINE = 256 << 20


@dataclass(frozen=True, kw_only=True)
class JsonlReader(FileReader):
    """Has no settings; the text column is a setting of the corpus."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".jsonlines")
    sliceable: ClassVar[bool] = True

    def read(self, source: SourceFile, skip: Skip, reading: ReadContext) -> Iterator[RawDocument]:
        column = _column(source, reading)
        with open_source(source) as stream:
            for place, line in _share(source, _recoded(stream, reading.encoding)):
                if not line.strip():
                    continue
                row = _parsed(line, skip, place)
                if row is None:
                    continue
                text = row.get(column)
                if not isinstance(text, str) or not text:
                    skip("row without text", f"{place}: column '{column}'")
                    continue
                yield text, metadata_of(row, column)


def _column(source: SourceFile, reading: ReadContext) -> str:
    with open_source(source) as stream:
        lines = itertools.islice(_lines(_recoded(stream, reading.encoding)), HEAD_ROWS)
        rows = [row for line in lines if (row := _parsed(line, lambda reason, detail: None, ""))]
    if not rows:
        raise UnusableFile("no_rows", f"no JSON object in the first {HEAD_ROWS} lines")
    return text_column(rows, reading.text)


def _recoded(stream: BinaryIO, encoding: str) -> BinaryIO:
    """The stream as UTF-8 bytes without a mark."""
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
    while line := stream.readline(LONGEST_LINE):
        yield line


def _share(source: SourceFile, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """(place, line) of this slice: a range of bytes of a plain file, every n-th block of rows of a compressed one."""
    if source.num_slices == 1 or source.compression or isinstance(stream, codecs.StreamRecoder):
        for number, line in enumerate(_lines(stream)):
            if number // BLOCK_ROWS % source.num_slices == source.slice_index:
                yield f"line {number + 1}", line
        return
    start, end = (source.bytes * part // source.num_slices for part in (source.slice_index, source.slice_index + 1))
    if start:
        # A line belongs to the slice in which it begins.
        stream.seek(start - 1, os.SEEK_SET)
        stream.readline()
    while (at := stream.tell()) < end and (line := stream.readline(LONGEST_LINE)):
        yield f"byte {at}", line


def _parsed(line: bytes, skip: Skip, place: str) -> dict[str, Any] | None:
    import orjson

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            row = orjson.loads(decode(line))
        except (orjson.JSONDecodeError, UnusableFile):
            skip("broken row", f"{place}: {error}")
            return None
    if not isinstance(row, dict):
        skip("broken row", f"{place}: not an object")
        return None
    return row
