"""Clean whitespace: remove trailing and unusual spaces, and reduce runs of empty lines to one."""

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
    """Clean whitespace.

    `collapse`: whether a run of spaces inside a line becomes one space. Indentation is kept, so that code is readable.
    """

    collapse: bool = True

    def apply(self, text: str) -> list[str]:
        if not text.isascii():
            text = BLANKS.sub(" ", text)
        # A test is much faster than a substitution, and most text needs no change.
        if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
            text = TRAILING.sub("", text)
        if self.collapse and ("  " in text or "\t" in text):
            text = INNER.sub(" ", text)
        if "\n\n\n" in text:
            text = EMPTY.sub("\n\n", text)
        return [text.strip("\n")]
