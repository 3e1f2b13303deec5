"""Where verbs print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 1_000
"""Of what is no terminal: a line in a pipe or a file is not broken, so that it can be searched for."""


def screen(*, stderr: bool = False, highlight: bool = False, soft_wrap: bool = False) -> Console:
    """A console on standard output or error, as wide as its terminal, as `COLUMNS` says, or as a pipe needs."""
    from rich.console import Console

    from encodery.base import machine

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal else machine.columns() or PIPE_COLUMNS
    return Console(stderr=stderr, highlight=highlight, soft_wrap=soft_wrap, width=width)
