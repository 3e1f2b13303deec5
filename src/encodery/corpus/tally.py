"""Count what a task wrote: documents and bytes by split, license, source and format, lengths, and a sample."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from datatrove.data import Document

LENGTHS = tuple(2**k for k in range(3, 25))  # Upper edges, in bytes.
SAMPLE_CHARACTERS = 500


class CorpusTally:
    """Counts of the documents that one task wrote."""

    KEYS: ClassVar[tuple[str, ...]] = ("split", "license", "source", "format")

    def __init__(self) -> None:
        self.documents = {key: Counter[str]() for key in self.KEYS}
        self.bytes = {key: Counter[str]() for key in self.KEYS}
        self.lengths: Counter[int] = Counter()
        self.sample: dict[str, Any] = {}

    def add(self, document: Document) -> None:
        """Count a document; the first one becomes the sample."""
        size = len(document.text.encode("utf-8", "surrogatepass"))
        for key in self.KEYS:
            value = document.metadata.get(key, "not stated")
            self.documents[key][value] += 1
            self.bytes[key][value] += size
        self.lengths[next((edge for edge in LENGTHS if size <= edge), LENGTHS[-1])] += 1
        if not self.sample:
            self.sample = {
                "id": document.id,
                "text": document.text[:SAMPLE_CHARACTERS],
                "metadata": document.metadata,
            }

    def table(self) -> dict[str, Any]:
        """Return the counts as a table for JSON."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "lengths": self.lengths,
            "sample": self.sample,
        }
