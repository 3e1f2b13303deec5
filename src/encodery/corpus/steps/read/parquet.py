"""Parquet: one document a row, read by row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from encodery.base.extras import require
from encodery.corpus.columns import rest_of, text_column
from encodery.corpus.encoding import Unusable
from encodery.corpus.sources import Source
from encodery.corpus.steps.read import Reader, Reading, Row, Skip
from encodery.corpus.streams import opened


@dataclass(frozen=True, kw_only=True)
class Parquet(Reader):
    """`batch`: rows held at a time."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    sliced: ClassVar[bool] = True
    batch: int = 512

    def rows(self, source: Source, skip: Skip, reading: Reading) -> Iterator[Row]:
        arrow = require("pyarrow", extra="corpus")
        parquet = require("pyarrow.parquet", extra="corpus")
        try:
            with opened(source) as stream, parquet.ParquetFile(stream) as file:
                column = ""
                groups = list(range(source.part, file.num_row_groups, source.parts))
                for batch in file.iter_batches(batch_size=self.batch, row_groups=groups):
                    rows = batch.to_pylist()
                    column = column or text_column(rows, reading.text)
                    for row in rows:
                        text = row.get(column)
                        if isinstance(text, str) and text:
                            yield text, rest_of(row, column)
                        else:
                            skip("row without text", f"column '{column}'")
        except arrow.ArrowException as error:
            raise Unusable("corrupt", f"parquet: {str(error).splitlines()[0]}") from error
