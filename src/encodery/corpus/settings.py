"""What a corpus is made with: the recipe of `encodery corpus build`."""

from __future__ import annotations

from dataclasses import dataclass, field

from encodery.base.errors import SettingsError, nearest
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
    return {type(reader).__name__.lower(): reader for reader in readers}


def _rewrites() -> dict[str, Rewrite]:
    return {"unicode": Unicode(), "whitespace": Whitespace(), "pieces": Pieces()}


def _filters() -> dict[str, Filter]:
    return {"length": Length(), "gopher_quality": GopherQuality(), "gopher_repetition": GopherRepetition()}


def _dedups() -> dict[str, Dedup]:
    return {"exact": Exact(), "minhash": Minhash()}


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """`text`: the column that holds the text in rows, `auto` guesses it (see `columns.py`).
    `encoding`: of text files, `auto` detects it. `license`: of documents whose row names none; one for all, or a
    table by source (the folder or file that was given, or its subfolder).
    `heldout`: share of documents set apart, chosen by hash; `heldout_documents`: at least so many where the share
    of a small corpus would give fewer, but never more than a tenth of it (and at least one of two).
    `skip`: names of steps left out, such as `["minhash"]`.
    The steps run in the order of the tables; `filter.c4=c4` adds one, `filter.length.min_words=5` sets one.
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
        if not 0 <= self.heldout < 1:
            raise SettingsError(f"heldout = {self.heldout}: must be a share of at least 0 and below 1.")
        if self.heldout_documents < 0:
            raise SettingsError(f"heldout_documents = {self.heldout_documents}: must not be negative.")
        known = [*self.read, *self.rewrite, *self.filter, *self.dedup]
        for name in self.skip:
            if name not in known:
                raise SettingsError(
                    f"skip: there is no step '{name}'.{nearest(name, known)} Steps are {', '.join(known)}."
                )

    def suffixes(self) -> dict[str, str]:
        """The suffixes that are read, and the name of the reader of each."""
        active = {name: part for name, part in self.read.items() if name not in self.skip}
        return {suffix: name for name, part in active.items() for suffix in part.suffixes}

    def sliceable_formats(self) -> list[str]:
        """The readers whose files several tasks may share."""
        return [name for name, part in self.read.items() if part.sliceable]
