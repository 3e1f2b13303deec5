"""The settings of `encodery corpus build`."""

from __future__ import annotations

from dataclasses import dataclass, field

from encodery.base.errors import SettingsError, nearest
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, check_interval
from encodery.corpus.steps.dedup import Dedup
from encodery.corpus.steps.dedup.exact import Exact
from encodery.corpus.steps.dedup.minhash import Minhash
from encodery.corpus.steps.filter import Filter
from encodery.corpus.steps.filter.gopher_quality import GopherQuality
from encodery.corpus.steps.filter.gopher_repetition import GopherRepetition
from encodery.corpus.steps.filter.length import Length
from encodery.corpus.steps.read import FileReader
from encodery.corpus.steps.read.csv import CsvReader
from encodery.corpus.steps.read.html import HtmlReader
from encodery.corpus.steps.read.jsonl import JsonlReader
from encodery.corpus.steps.read.markdown import MarkdownReader
from encodery.corpus.steps.read.parquet import ParquetReader
from encodery.corpus.steps.read.rst import RstReader
from encodery.corpus.steps.read.text import TextReader
from encodery.corpus.steps.rewrite import Rewrite
from encodery.corpus.steps.rewrite.pieces import Pieces
from encodery.corpus.steps.rewrite.unicode import Unicode
from encodery.corpus.steps.rewrite.whitespace import Whitespace


def _readers() -> dict[str, FileReader]:
    readers = (TextReader(), MarkdownReader(), RstReader(), HtmlReader(), JsonlReader(), CsvReader(), ParquetReader())
    return {name_of(reader): reader for reader in readers}


def _rewrites() -> dict[str, Rewrite]:
    return {"unicode": Unicode(), "whitespace": Whitespace(), "pieces": Pieces()}


def _filters() -> dict[str, Filter]:
    return {"length": Length(), "gopher_quality": GopherQuality(), "gopher_repetition": GopherRepetition()}


def _dedups() -> dict[str, Dedup]:
    return {"exact": Exact(), "minhash": Minhash()}


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Settings of a corpus.

    Steps run in the order of the tables. `filter.c4=c4` adds a step, `filter.length.min_words=5` changes a setting.

    Attributes:
        text: the column that contains the text in tables; "auto" guesses it (see `columns.py`).
        encoding: the encoding of text files; "auto" detects it.
        license: the license of documents whose row states none; one for all, or a table by source (the folder or file
            that was given, or its subfolder).
        heldout: the fraction of documents that is held out, chosen by hash.
        heldout_documents: the number of documents to hold out if the fraction of a small corpus gives fewer, but at
            most a tenth of the corpus (and at least one of two documents).
        skip: the names of steps that are left out, such as `["minhash"]`.
        read, rewrite, filter, dedup: the steps by name.
    """

    text: str = "auto"
    encoding: str = "auto"
    license: str | dict[str, str] | None = None
    heldout: float = 0.01
    heldout_documents: int = 20
    skip: tuple[str, ...] = ()
    read: dict[str, FileReader] = field(default_factory=_readers)
    rewrite: dict[str, Rewrite] = field(default_factory=_rewrites)
    filter: dict[str, Filter] = field(default_factory=_filters)
    dedup: dict[str, Dedup] = field(default_factory=_dedups)

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "heldout")
        check_at_least(self, 0, "heldout_documents")
        known = [*self.read, *self.rewrite, *self.filter, *self.dedup]
        for name in self.skip:
            if name not in known:
                raise SettingsError(
                    f"skip: there is no step '{name}'.{nearest(name, known)} Steps: {', '.join(known)}."
                )

    def suffixes(self) -> dict[str, str]:
        """Return the name of the reader of each file suffix."""
        active = {name: part for name, part in self.read.items() if name not in self.skip}
        return {suffix: name for name, part in active.items() for suffix in part.suffixes}

    def sliceable_formats(self) -> list[str]:
        """Return the names of the readers whose files can be divided among tasks."""
        return [name for name, part in self.read.items() if part.sliceable]
