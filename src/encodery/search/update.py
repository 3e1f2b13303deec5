"""Documents added to a finished index and taken out of it. Its weight and what its finish learnt stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError
from encodery.search.build import Progress, stored_bytes
from encodery.search.documents import DocumentInput
from encodery.search.filters import Condition
from encodery.search.passage_sources import DocumentSource
from encodery.search.search_index import SearchIndex
from encodery.search.writer import StoreWriter


def add(index: SearchIndex, sources: Sequence[str | Path], progress: Progress | None = None) -> dict[str, Any]:
    """Add all documents of `sources`; one whose id is in the index replaces it.

    Returns what was counted: documents, passages, replaced, dropped_tokens, skipped (reason -> number). Raises
    `ArtifactError` where the model at hand is run otherwise than when the index was made.
    """
    given = DocumentInput.open(sources, index.settings.text, avoid=(index.path,))
    supply = DocumentSource(sources, given, index.settings.passages, index.retrievers)
    if index.warnings:
        raise ArtifactError(f"{index.warnings[0]} All that an index stores is made by one runtime; add with that one.")
    writer = StoreWriter(index.store, supply.pending_retrievers, index.postprocess)

    def mark() -> None:
        if progress is not None:
            progress(writer.counts["documents"], writer.counts["passages"])

    before = index.store.documents()
    writer.add(supply.documents(0), mark, known=True)
    _settled(index)
    fresh = index.store.documents() - before
    counts = {name: writer.counts[name] for name in ("documents", "passages", "dropped_tokens")}
    return {**counts, "replaced": counts["documents"] - fresh, "skipped": dict(supply.skipped)}


def delete(index: SearchIndex, documents: Sequence[str] = (), conditions: Sequence[Condition] = ()) -> dict[str, int]:
    """Take documents out by id, and passages for which all conditions hold.

    Returns the numbers of documents and passages that went. Raises `InputError` when neither is given.
    """
    if not documents and not conditions:
        raise InputError("Nothing to delete: give ids of documents, or a filter.")
    before = index.store.documents(), index.store.count()
    index.store.delete_documents(documents)
    if conditions:
        index.store.delete_where(conditions)
    _settled(index)
    return {"documents": before[0] - index.store.documents(), "passages": before[1] - index.store.count()}


def compact(index: SearchIndex) -> tuple[int, int]:
    """Drop for good what was deleted or replaced, and merge what additions left in pieces.

    Returns the bytes of the store's files before and after.
    """
    before = stored_bytes(index.path)
    _settled(index)
    return before, stored_bytes(index.path)


def _settled(index: SearchIndex) -> None:
    index.store.compact()
    figures = {"documents": index.store.documents(), "passages": index.store.count()}
    index.artifact.add_metrics({**figures, "bytes": stored_bytes(index.path)})
