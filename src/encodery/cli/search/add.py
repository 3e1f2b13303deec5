"""encodery search add: add documents to an index."""

from __future__ import annotations

from encodery.cli.search._shared import Index, Model, Progress, Sources


def command(folder: Index, sources: Sources, model: Model = None) -> None:
    """Add documents to an index. A document whose id is already in the index replaces the stored one."""
    from encodery.cli._screen import screen
    from encodery.search.index import SearchIndex
    from encodery.search.index_retrievers import IndexRetrievers
    from encodery.search.update import add

    console = screen()
    with SearchIndex(folder) as index, Progress(console) as progress:
        counts = add(index, IndexRetrievers(index, models=model), sources, progress)
    line = f"{counts['documents']:,} documents in {counts['passages']:,} passages, {counts['replaced']:,} replaced"
    console.print(f"{folder}: {line}, {counts['dropped_tokens']:,} tokens dropped.")
    for reason, number in counts["skipped"].items():
        console.print(f"  skipped: {number:,} {reason}")
