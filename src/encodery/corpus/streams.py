"""Open a source file as a stream of decompressed bytes or text; damage is reported as `UnusableFile`."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from encodery.corpus.encoding import HEAD, UnusableFile, detect
from encodery.corpus.sources import SourceFile

MAX_BYTES = 64 << 20  # Of a file that must be held in memory (HTML).


@contextlib.contextmanager
def open_source(source: SourceFile) -> Iterator[BinaryIO]:
    """Open a file for its decompressed bytes. Raises `UnusableFile` (corrupt, unreadable)."""
    try:
        with open(source.path, "rb") as file, _plain(file, source.compression) as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UnusableFile("corrupt", f"{source.compression}: {error}") from error
    except OSError as error:
        # bz2 reports damage as an OSError without an error number.
        if source.compression and error.errno is None:
            raise UnusableFile("corrupt", f"{source.compression}: {error}") from error
        if error.filename == source.path or isinstance(error, PermissionError):
            raise UnusableFile("unreadable", error.strerror or str(error)) from error
        raise
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise UnusableFile("corrupt", f"zstd: {error}") from error


def _plain(file: BinaryIO, compression: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if compression == "zstd":
        return io.BufferedReader(_Zstd(file), 1 << 20)
    openers: dict[str, Any] = {"gzip": gzip.open, "xz": lzma.open, "bz2": bz2.open}
    opener = openers.get(compression, contextlib.nullcontext)
    return cast("contextlib.AbstractContextManager[BinaryIO]", opener(file))


class _Zstd(io.RawIOBase):
    """The decompressed bytes of all frames. An archive that ends inside a frame is an error, not a short read."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._inside = False
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            data = self._file.read(1 << 16)
            if not data:
                if self._inside:
                    raise EOFError("the archive ends inside a frame")
                return 0
            self._pending = self._decompress(data)
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    def _decompress(self, data: bytes) -> bytes:
        out = b""
        while data:
            self._inside = True
            out += self._frame.decompress(data)
            data = self._frame.unused_data
            if self._frame.eof:
                self._inside = False
                self._frame = self._decompressor.decompressobj()
            else:
                break
        return out


def read_source(source: SourceFile) -> bytes:
    """Return all bytes of a file. Raises `UnusableFile("too_large")` beyond 64 MiB."""
    with open_source(source) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UnusableFile("too_large", f"more than {MAX_BYTES >> 20} MiB in one piece")
    return data


@contextlib.contextmanager
def open_source_text(source: SourceFile, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Open a file for its text; "auto" detects the encoding from its first bytes. Raises `UnusableFile`."""
    with open_source(source) as stream:
        head = stream.read(HEAD)
        name = detect(head, encoding)
    with open_source(source) as stream:
        reader = io.TextIOWrapper(stream, encoding=name, newline="")
        try:
            yield reader
        except UnicodeDecodeError as error:
            raise UnusableFile("undecodable", f"{name}: {error.reason}") from error
        except LookupError as error:
            raise UnusableFile("undecodable", f"no such encoding: {name}") from error
        finally:
            reader.detach()
