"""Where verbs print."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 1_000
"""Of what is no terminal: a line in a pipe or a file is not broken, so that it can be searched for."""

BLANKS = re.compile(r" +(?=\n)")


def screen(*, stderr: bool = False, highlight: bool = False, soft_wrap: bool = False) -> Console:
    """A console on standard output or error, as wide as its terminal, as `COLUMNS` says, or as a pipe needs."""
    from rich.console import Console

    from encodery.base import machine

    out = sys.stderr if stderr else sys.stdout
    if out.isatty():
        return Console(stderr=stderr, highlight=highlight, soft_wrap=soft_wrap)
    width = machine.columns() or PIPE_COLUMNS
    file = cast("TextIO", _Trimmed(out))
    return Console(file=file, highlight=highlight, soft_wrap=soft_wrap, width=width)


class _Trimmed:
    """A file, whose lines lose the blanks at their ends: tables fill up every cell."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """As of a file."""
        return self._file.write(BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
