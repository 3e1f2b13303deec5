"""Checks of readers of a corpus build."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.corpus.encoding import UnusableFile
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext


def read(part: FileReader, path: Path) -> list[RawDocument]:
    """Return the documents of a file. Raises `UnusableFile`."""
    source = SourceFile(str(path), path.name, path.name, "format", "", path.stat().st_size, 0)
    context = ReadContext("auto", "auto", None, path.parent, path.parent)
    return list(part.read(source, lambda reason, detail: None, context))


def check_settings_round_trip(part: FileReader) -> None:
    """The part is what its settings decode to."""
    assert decode(FileReader, encode(part)) == part


def check_suffixes(part: FileReader) -> None:
    """The reader has suffixes in lower case, with their dot, that no other reader of the package has."""
    assert part.suffixes, "the reader has no suffixes"
    for suffix in part.suffixes:
        assert suffix.startswith("."), f"'{suffix}' does not start with a dot"
        assert suffix == suffix.lower(), f"'{suffix}' is not in lower case"
    for name in part_names(FileReader):
        other = find_part(FileReader, name)
        if other is not type(part):
            shared = set(part.suffixes).intersection(other.suffixes)
            assert not shared, f"the reader '{name}' has the suffixes {sorted(shared)} too"


def check_builds_a_step(part: FileReader) -> None:
    """`build` returns a step of datatrove."""
    from datatrove.pipeline.base import PipelineStep

    with tempfile.TemporaryDirectory() as folder:
        context = ReadContext("auto", "auto", None, Path(folder), Path(folder))
        assert isinstance(part.build("format", context), PipelineStep)


def check_binary_data_is_refused(part: FileReader) -> None:
    """A file of all bytes raises `UnusableFile` with the reason "binary" or "corrupt"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise"
        path.write_bytes(bytes(range(256)) * 100)
        message = raised_message(UnusableFile, functools.partial(read, part, path))
    assert "'binary'" in message or "'corrupt'" in message, f"the reason is {message}"
