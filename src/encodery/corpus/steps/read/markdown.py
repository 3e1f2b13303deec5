"""Markdown: one document per file, without the markup that is not text.

Front matter, comments, images, link targets, reference definitions and HTML tags are removed. Headings, lists, emphasis
and code are kept, because they are readable and carry meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from encodery.corpus.encoding import decode
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import read_source

FRONT = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
FENCE = re.compile(r"^(\s*)(```|~~~).*?^\s*\2[^\n]*$", re.DOTALL | re.MULTILINE)
REPLACED = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"!\[([^\]\n]*)\]\([^)\n]*\)|!\[([^\]\n]*)\]\[[^\]\n]*\]"), ""),
    (re.compile(r"\[([^\]\n]+)\]\([^)\n]*\)|\[([^\]\n]+)\]\[[^\]\n]*\]"), r"\1\2"),
    (re.compile(r"^ {0,3}\[[^\]\n]+\]:\s*\S+.*\n?", re.MULTILINE), ""),
    (re.compile(r"<(https?://[^>\s]+)>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>\n]*)?/?>"), ""),
    (re.compile(r"^([^\n]+)\n(=+|-{2,})[ \t]*$", re.MULTILINE), r"\1"),
)


@dataclass(frozen=True, kw_only=True)
class MarkdownReader(FileReader):
    """Markdown reader. `keep_marks`: keep the text of the file unchanged."""

    suffixes: ClassVar[tuple[str, ...]] = (".md", ".markdown", ".mkd", ".mdown")
    keep_marks: bool = False

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        text = decode(read_source(source), context.encoding)
        yield text if self.keep_marks else plain(text), {}


def plain(text: str) -> str:
    """Return the text of a Markdown file; fenced code is not changed."""
    text = FRONT.sub("", text.replace("\r\n", "\n"))
    done, last = [], 0
    for fence in FENCE.finditer(text):
        done += [_prose(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*done, _prose(text[last:])])


def _prose(text: str) -> str:
    for pattern, replacement in REPLACED:
        text = pattern.sub(replacement, text)
    return text
