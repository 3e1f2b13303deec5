"""Whitespace cleaning: no trailing or odd blanks, no piles of empty lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from encodery.corpus.steps.rewrite import Rewrite

BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
INNER = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
EMPTY = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True)
class Whitespace(Rewrite):
    """`collapse`: whether runs of blanks inside a line become one; indentation is kept, code stays readable."""

    collapse: bool = True

    def apply(self, text: str) -> list[str]:
        if not text.isascii():
            text = BLANKS.sub(" ", text)
        # Looking first is much cheaper than substituting, and most text needs nothing.
        if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
            text = TRAILING.sub("", text)
        if self.collapse and ("  " in text or "\t" in text):
            text = INNER.sub(" ", text)
        if "\n\n\n" in text:
            text = EMPTY.sub("\n\n", text)
        return [text.strip("\n")]
