"""Clean Unicode: apply a normal form, remove control characters, and repair text that was encoded twice.

Unlike ftfy it changes nothing in well-formed text of any script: quotes, character widths and ligatures are kept.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from encodery.corpus.steps.rewrite import Rewrite

# C0 except tab and newline, C1, the byte-order mark, soft hyphen, lone surrogates, non-characters.
UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\xad\ufeff\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
NEWLINES = re.compile("[\r\x0b\x0c\x85\u2028\u2029]")
# A lead byte of UTF-8 that was decoded as cp1252, and its continuation bytes.
CP1252_TAIL = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
LEAD = re.compile("[Â-ô]")
TWICE = re.compile(f"[Â-ß][{CP1252_TAIL}]|[à-ï][{CP1252_TAIL}]{{2}}|[ð-ô][{CP1252_TAIL}]{{3}}")


@dataclass(frozen=True, kw_only=True)
class Unicode(Rewrite):
    """Clean Unicode.

    Attributes:
        form: the normal form. NFKC also replaces full-width letters and ligatures; "none" changes nothing.
        repair: whether UTF-8 that was decoded as Windows-1252 (`Ã©` for `é`) is repaired.
    """

    form: Literal["NFC", "NFKC", "none"] = "NFC"
    repair: bool = True

    def apply(self, text: str) -> list[str]:
        text = NEWLINES.sub("\n", text.replace("\r\n", "\n"))
        if self.repair and not text.isascii() and LEAD.search(text):
            text = TWICE.sub(_repaired, text)
        text = UNWANTED.sub("", text)
        if self.form != "none" and not text.isascii():
            text = unicodedata.normalize(self.form, text)
        return [text]


def _repaired(match: re.Match[str]) -> str:
    raw = bytearray()
    for character in match[0]:
        # Five bytes are undefined in cp1252; decoders turn them into C1 controls.
        raw += character.encode("latin-1") if ord(character) < 256 else character.encode("cp1252")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return match[0]
