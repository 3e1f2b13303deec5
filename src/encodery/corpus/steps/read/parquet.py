"""Parquet: one document per row, read by row group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from encodery.base.extras import require
from encodery.corpus.columns import metadata_of, text_column
from encodery.corpus.encoding import UnusableFile
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import open_source


@dataclass(frozen=True, kw_only=True)
class ParquetReader(FileReader):
    """Parquet reader. `batch`: the number of rows in memory at a time."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)
    sliceable: ClassVar[bool] = True
    batch: int = 512

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        arrow = require("pyarrow", extra="corpus")
        parquet = require("pyarrow.parquet", extra="corpus")
        try:
            with open_source(source) as stream, parquet.ParquetFile(stream) as file:
                column = ""
                groups = list(range(source.slice_index, file.num_row_groups, source.num_slices))
                for batch in file.iter_batches(batch_size=self.batch, row_groups=groups):
                    rows = batch.to_pylist()
                    column = column or text_column(rows, context.text)
                    for row in rows:
                        text = row.get(column)
                        if isinstance(text, str) and text:
                            yield text, metadata_of(row, column)
                        else:
                            skip("row without text", f"column '{column}'")
        except arrow.ArrowException as error:
            raise UnusableFile("corrupt", f"parquet: {str(error).splitlines()[0]}") from error
