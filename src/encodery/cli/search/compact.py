"""encodery search compact: reclaim the space of deleted passages and optimise an index."""

from __future__ import annotations

from encodery.cli.search._shared import Index


def command(folder: Index) -> None:
    """Reclaim the space of deleted and replaced passages, and optimise the index for fast queries."""
    from encodery.cli._screen import screen
    from encodery.search.index import SearchIndex
    from encodery.search.update import compact

    with SearchIndex(folder) as opened:
        before, after = compact(opened)
    screen().print(f"{folder}: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after.")
