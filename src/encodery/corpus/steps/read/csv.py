"""Comma- or tab-separated values with a header row: one document a row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.corpus.columns import HEAD_ROWS, rest_of, text_column
from encodery.corpus.sources import Source
from encodery.corpus.steps.read import Reader, Reading, Row, Skip
from encodery.corpus.streams import text_stream

LONGEST_FIELD = 64 << 20
BLOCK_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Csv(Reader):
    """`delimiter`: `auto` takes the one of `, ; | tab` that the header has most of (tab for .tsv)."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    sliced: ClassVar[bool] = True
    delimiter: str = "auto"

    def rows(self, source: Source, skip: Skip, reading: Reading) -> Iterator[Row]:
        csv.field_size_limit(LONGEST_FIELD)
        head = [row for _, row in itertools.islice(self._rows(source, reading, lambda *_: None), HEAD_ROWS)]
        if not head:
            return
        column = text_column(head, reading.text)
        for number, row in self._rows(source, reading, skip if source.part == 0 else lambda *_: None):
            if number // BLOCK_ROWS % source.parts != source.part:
                continue
            text = row.get(column)
            if text:
                yield text, rest_of(row, column)
            else:
                skip("row without text", f"row {number + 1}: column '{column}'")

    def _rows(self, source: Source, reading: Reading, skip: Skip) -> Iterator[tuple[int, dict[str, Any]]]:
        with text_stream(source, reading.encoding) as stream:
            header = stream.readline(LONGEST_FIELD)
            delimiter = self._delimiter(source, header)
            names = next(csv.reader([header], delimiter=delimiter), [])
            reader = csv.reader((line.replace("\x00", "") for line in stream), delimiter=delimiter)
            for number in itertools.count():
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    skip("broken row", f"row {number + 1}: {error}")
                    continue
                if len(row) != len(names):
                    if row:
                        skip("broken row", f"row {number + 1}: {len(row)} fields, the header has {len(names)}")
                    continue
                yield number, dict(zip(names, row, strict=True))

    def _delimiter(self, source: Source, header: str) -> str:
        if self.delimiter != "auto":
            return {"tab": "\t"}.get(self.delimiter, self.delimiter)
        if ".tsv" in source.path.lower():
            return "\t"
        return max(",;\t|", key=header.count)
