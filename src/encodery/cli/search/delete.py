"""encodery search delete: delete documents from an index, by id or by filter."""

from __future__ import annotations

from typing import Annotated

import typer

from encodery.cli.search._shared import Filters, Index


def command(
    folder: Index,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of documents to delete.")] = None,
    filters: Filters = None,
) -> None:
    """Delete documents by id, or all passages that match a filter."""
    from encodery.cli._screen import screen
    from encodery.search.filters import parse
    from encodery.search.index import SearchIndex
    from encodery.search.update import delete

    with SearchIndex(folder) as opened:
        deleted = delete(opened, ids or [], parse(filters or []))
    screen().print(f"{folder}: {deleted['documents']:,} documents, {deleted['passages']:,} passages deleted.")
