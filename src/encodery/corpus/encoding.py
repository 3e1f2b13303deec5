"""Decode bytes: byte-order marks, UTF-8, Windows-1252 if it is plausible, otherwise charset-normalizer.

The encoding of a short text can be detected wrongly if several encodings fit; then set it with `encoding=`.
"""

from __future__ import annotations

import codecs
import re

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BINARY = (b"%PDF", b"PK\x03\x04", b"\x7fELF", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
HEAD = 1 << 16
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# The characters of western European text outside ASCII: letters, quotes, dashes, common signs.
WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŒœŠšŽžŸ‘’“”–—…•«»„‚‹›°§©®€£¡¿·\xa0")

# The common encodings before UTF-8. Without this list charset-normalizer proposes rare encodings that fit as well.
COMMON_ENCODINGS = (
    "cp1250 iso8859_2 cp1251 koi8_r koi8_u iso8859_5 cp866 cp1253 iso8859_7 cp1254 iso8859_9 cp1255 iso8859_8 cp1256 "
    "iso8859_6 cp1257 cp1258 cp1252 cp932 euc_jp gb18030 big5 cp949 cp874"
)


class UnusableFile(Exception):
    """A file that cannot be used. `reason` is counted in the report, `detail` is shown next to the file's name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def detect(head: bytes, encoding: str = "auto") -> str:
    """Return the encoding of a file, detected from its first bytes.

    Args:
        head: the first bytes of the file.
        encoding: the encoding to use if the file has no byte-order mark; "auto" detects it.

    Raises `UnusableFile("binary")` if it is not text, `UnusableFile("undecodable")` if no encoding fits.
    """
    for mark, name in BOMS:
        if head.startswith(mark):
            return name
    if encoding != "auto":
        return encoding
    if not head.startswith(BINARY) and (wide := _wide(head)):
        return wide
    if is_binary(head):
        raise UnusableFile("binary")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return "utf-8"
    except UnicodeDecodeError:
        return _single_byte(head)


def decode(data: bytes, encoding: str = "auto") -> str:
    """Return the text of a complete file. Raises `UnusableFile` (binary, undecodable)."""
    name = detect(data[:HEAD], encoding)
    if name == "utf-8" and encoding == "auto":
        # The head may be ASCII although the rest is not.
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            start = max(0, error.start - HEAD // 2)
            name = _single_byte(data[start : start + HEAD])
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise UnusableFile("undecodable", f"{name}: {error.reason} at byte {error.start}") from error
    except LookupError as error:
        raise UnusableFile("undecodable", f"no such encoding: {name}") from error


def is_binary(head: bytes) -> bool:
    """Return whether bytes are not text in an ASCII-compatible encoding: known signatures, NULs, many controls."""
    if head.startswith(BINARY) or b"\x00" in head:
        return True
    return len(CONTROLS.findall(head)) > len(head) / 50


def _wide(head: bytes) -> str:
    """Return `utf-16-le` or `utf-16-be` for text without a byte-order mark, in which every other byte is NUL."""
    even, odd = head[0:4096:2], head[1:4096:2]
    if len(odd) < 8:
        return ""
    zeros = even.count(0) / len(even), odd.count(0) / len(odd)
    name = "utf-16-le" if zeros[1] > 0.4 > 0.05 > zeros[0] else "utf-16-be" if zeros[0] > 0.4 > 0.05 > zeros[1] else ""
    if name:
        try:
            text = head[: len(head) // 2 * 2].decode(name, "ignore")
        except UnicodeDecodeError:
            return ""
        return name if sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(text) else ""
    return name


def _single_byte(sample: bytes) -> str:
    """Return the encoding of bytes that are not UTF-8."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    others = [c for c in text if c > "\x7f"]
    if others and len(others) < 0.25 * len(text) and sum(c in WESTERN for c in others) >= 0.95 * len(others):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=COMMON_ENCODINGS.split()).best()
    if best is None:
        raise UnusableFile("undecodable", "no encoding fits")
    return best.encoding
