"""Open text files: decompress them, detect the encoding, and report damage.

The encoding is UTF-8 unless there is a byte-order mark or every other byte is NUL (UTF-16). Bytes that are not valid
UTF-8 are read as Windows-1252, with a warning. Nothing is replaced silently: other bytes are refused.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from encodery.base.errors import InputError

COMPRESSIONS = (".gz", ".xz", ".zst")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
BLOCK = 1 << 20


def file_format(path: Path) -> str:
    """Return the suffix of the format: .jsonl for rows.jsonl.gz."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return plain.suffix.lower()


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for its decompressed bytes. Raises `InputError`: missing, unreadable, a damaged archive."""
    try:
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(_plain(path))
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the archive is damaged: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise InputError(f"{path}: the archive is damaged: {error}") from error


def encoding_of(path: Path) -> str:
    """Return utf-8, utf-8-sig, utf-16, utf-16-le, utf-16-be or cp1252. Raises `InputError` if none of them fits."""
    with open_bytes(path) as stream:
        head = stream.read(BLOCK)
        for mark, name in MARKS:
            if head.startswith(mark):
                return name
        if b"\x00" in head[:4096]:
            return _wide(path, head[:4096])
        decoder, block = codecs.getincrementaldecoder("utf-8")(), head
        utf8, western = True, True
        while block and (utf8 or western):
            utf8 = utf8 and _decodes(decoder, block)
            if western and any(byte in block for byte in UNDEFINED):
                western = False
            block = stream.read(BLOCK)
        utf8 = utf8 and _decodes(decoder, b"", True)
    if utf8:
        return "utf-8"
    if not western:
        raise InputError(f"{path}: is not text in UTF-8, UTF-16 or Windows-1252; save it as UTF-8.")
    return "cp1252"


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = "\n") -> Iterator[tuple[IO[str], tuple[str, ...]]]:
    """Open a file for its text. Yields the stream and warnings about its encoding. Raises `InputError`."""
    encoding = encoding_of(path)
    warnings = () if encoding.startswith("utf-8") else (f"{path}: read as {ENCODINGS[encoding]}",)
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding, newline=newline) as text:
        try:
            yield text, warnings
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: contains bytes that are not {encoding}: {error.reason}.") from error


UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d", b"\x00")
ENCODINGS = {"cp1252": "Windows-1252", "utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}


def _plain(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast("BinaryIO", lzma.open(path, "rb"))
    if suffix == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return cast("BinaryIO", io.BufferedReader(reader, BLOCK))
    return path.open("rb")


def _wide(path: Path, head: bytes) -> str:
    zeros = head[0::2].count(0), head[1::2].count(0)
    if zeros[0] == zeros[1] or min(zeros) > 0.05 * max(zeros):
        raise InputError(f"{path}: contains NUL bytes, so it is not text.")
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _decodes(decoder: codecs.IncrementalDecoder, block: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError:
        return False
    return True
