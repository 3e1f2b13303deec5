"""What a pipe gets of what a terminal would show."""

from __future__ import annotations

import pytest
from rich.table import Table

from encodery.cli._screen import screen


@pytest.mark.parametrize("stderr", [False, True])
def test_cells_in_a_pipe_are_whole_and_not_filled_up(stderr: bool, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "passage", box=None, pad_edge=False)
    table.add_row("long", "word " * 100)
    table.add_row("short", "a  b")
    screen(stderr=stderr).print(table)
    message = capsys.readouterr()
    head, long, short = (message.err if stderr else message.out).splitlines()
    assert (head, short) == ("name   passage", "short  a  b")
    assert long == f"long   {'word ' * 100}".rstrip()
    assert not (message.out if stderr else message.err)
