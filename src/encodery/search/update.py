"""Adds documents to an index, deletes them, and compacts it. The index's weights and fitted steps do not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError
from encodery.search.build import Progress, stored_bytes
from encodery.search.documents import DocumentInput
from encodery.search.filters import Condition
from encodery.search.index import SearchIndex
from encodery.search.index_retrievers import IndexRetrievers
from encodery.search.passage_sources import DocumentSource
from encodery.search.writer import StoreWriter


def add(
    index: SearchIndex, retrievers: IndexRetrievers, sources: Sequence[str | Path], progress: Progress | None = None
) -> dict[str, Any]:
    """Add all documents of `sources`; a document whose id is in the index replaces the old one.

    Returns the counts documents, passages, replaced, dropped_tokens, and skipped (reason -> number). Raises
    `ArtifactError` if a model runs in another runtime than when the index was built.
    """
    documents = DocumentInput.open(sources, index.settings.text, avoid=(index.path,))
    source = DocumentSource(sources, documents, index.settings.passages, retrievers.models())
    if retrievers.warnings:
        raise ArtifactError(
            f"{retrievers.warnings[0]} All vectors of an index come from one runtime; add with that one."
        )
    writer = StoreWriter(index.store, source.pending_retrievers, index.postprocess)

    def on_stored() -> None:
        if progress is not None:
            progress(writer.counts["documents"], writer.counts["passages"])

    before = index.store.documents()
    writer.add(source.documents(0), on_stored, may_exist=True)
    _compacted(index)
    added = index.store.documents() - before
    counts = {name: writer.counts[name] for name in ("documents", "passages", "dropped_tokens")}
    return {**counts, "replaced": counts["documents"] - added, "skipped": dict(source.skipped)}


def delete(index: SearchIndex, documents: Sequence[str] = (), conditions: Sequence[Condition] = ()) -> dict[str, int]:
    """Delete documents by id, and the passages for which all conditions hold.

    Returns how many documents and passages were deleted. Raises `InputError` if neither ids nor conditions are given.
    """
    if not documents and not conditions:
        raise InputError("Nothing to delete: give ids of documents, or a filter.")
    before = index.store.documents(), index.store.count()
    index.store.delete_documents(documents)
    if conditions:
        index.store.delete_where(conditions)
    _compacted(index)
    return {"documents": before[0] - index.store.documents(), "passages": before[1] - index.store.count()}


def compact(index: SearchIndex) -> tuple[int, int]:
    """Free the space of deleted and replaced passages, and merge the parts that additions created.

    Returns the bytes of the store's files before and after.
    """
    before = stored_bytes(index.path)
    _compacted(index)
    return before, stored_bytes(index.path)


def _compacted(index: SearchIndex) -> None:
    index.store.compact()
    counts = {"documents": index.store.documents(), "passages": index.store.count()}
    index.artifact.add_metrics({**counts, "bytes": stored_bytes(index.path)})
