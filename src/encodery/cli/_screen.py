"""The consoles that verbs print to."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 1_000
"""The line width of pipes and files: long enough that lines are not wrapped and can be searched."""

BLANKS = re.compile(r" +(?=\n)")


def screen(*, stderr: bool = False, highlight: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console on stdout or stderr, as wide as the terminal or the variable `COLUMNS`, else `PIPE_COLUMNS`."""
    from rich.console import Console

    from encodery.base import machine

    out = sys.stderr if stderr else sys.stdout
    if out.isatty():
        return Console(stderr=stderr, highlight=highlight, soft_wrap=soft_wrap)
    width = machine.terminal_width() or PIPE_COLUMNS
    file = cast("TextIO", _Trimmed(out))
    return Console(file=file, highlight=highlight, soft_wrap=soft_wrap, width=width)


class _Trimmed:
    """A text file that strips trailing spaces from lines, because tables pad every cell."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write text without trailing spaces and return the number of characters written."""
        return self._file.write(BLANKS.sub("", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
