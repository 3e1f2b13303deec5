"""Comma- or tab-separated values with a header row: one document per row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.corpus.columns import HEAD_ROWS, metadata_of, text_column
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import open_source_text

MAX_FIELD_LENGTH = 64 << 20
BLOCK_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class CsvReader(FileReader):
    """CSV reader. `delimiter`: "auto" takes the most frequent of `, ; | tab` in the header (tab for .tsv)."""

    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    sliceable: ClassVar[bool] = True
    delimiter: str = "auto"

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        csv.field_size_limit(MAX_FIELD_LENGTH)
        head = [row for _, row in itertools.islice(self._rows(source, context, lambda *_: None), HEAD_ROWS)]
        if not head:
            return
        column = text_column(head, context.text)
        for number, row in self._rows(source, context, skip if source.slice_index == 0 else lambda *_: None):
            if number // BLOCK_ROWS % source.num_slices != source.slice_index:
                continue
            text = row.get(column)
            if text:
                yield text, metadata_of(row, column)
            else:
                skip("row without text", f"row {number + 1}: column '{column}'")

    def _rows(self, source: SourceFile, context: ReadContext, skip: Skip) -> Iterator[tuple[int, dict[str, Any]]]:
        with open_source_text(source, context.encoding) as stream:
            header = stream.readline(MAX_FIELD_LENGTH)
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
                        skip(
                            "broken row",
                            f"row {number + 1}: {len(row)} fields instead of the {len(names)} of the header",
                        )
                    continue
                yield number, dict(zip(names, row, strict=True))

    def _delimiter(self, source: SourceFile, header: str) -> str:
        if self.delimiter != "auto":
            return {"tab": "\t"}.get(self.delimiter, self.delimiter)
        if ".tsv" in source.path.lower():
            return "\t"
        return max(",;\t|", key=header.count)
