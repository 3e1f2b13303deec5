"""reStructuredText: one document per file, without directives, roles, targets and underlines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from encodery.corpus.encoding import decode
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import read_source

LINE = r"^[ \t]*([=\-~^\"'#*+.`:_<>])\1{2,}[ \t]*\n?"
DROPPED = r"image|figure|toctree|contents|include|raw|csv-table|highlight|currentmodule|module|index|only|meta"
REPLACED = (
    # A directive that contains no text: remove it with its options and its indented block.
    (re.compile(rf"^([ \t]*)\.\. (?:{DROPPED})::.*\n(?:(?:\1[ \t]+\S.*|[ \t]*)\n)*", re.MULTILINE), "\n"),
    (re.compile(r"^[ \t]*\.\. (?:_[^:\n]+|\|[^|\n]+\| \w+:):.*\n", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*:[\w-]+:(?:[ \t].*)?\n(?=[ \t]*(?::[\w-]+:|\n))", re.MULTILINE), ""),
    (re.compile(r"^([ \t]*)\.\. [\w:-]+::[ \t]*", re.MULTILINE), r"\1"),
    (re.compile(r"^[ \t]*\.\.(?:[ \t].*)?\n", re.MULTILINE), ""),
    (re.compile(r":[\w:+-]+:`([^`<]*?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+-]+:`[~!]?([^`]*)`"), r"\1"),
    (re.compile(r"`([^`<\n]+?)\s*<[^`>\n]*>`__?"), r"\1"),
    (re.compile(r"`([^`\n]+)`__?"), r"\1"),
    (re.compile(r"``([^`\n]+)``"), r"\1"),
    (re.compile(LINE, re.MULTILINE), ""),
    (re.compile(r"(\S)?::[ \t]*$", re.MULTILINE), lambda m: f"{m[1]}:" if m[1] else ""),
)


@dataclass(frozen=True, kw_only=True)
class RstReader(FileReader):
    """reStructuredText reader. `keep_marks`: keep the text of the file unchanged."""

    suffixes: ClassVar[tuple[str, ...]] = (".rst", ".rest")
    keep_marks: bool = False

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        text = decode(read_source(source), context.encoding)
        yield text if self.keep_marks else plain(text), {}


def plain(text: str) -> str:
    """Return the text of a reStructuredText file."""
    text = text.replace("\r\n", "\n")
    for pattern, replacement in REPLACED:
        text = pattern.sub(replacement, text)
    return text
