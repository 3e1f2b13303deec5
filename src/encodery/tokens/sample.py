"""A bounded, repeatable sample of documents: those with the smallest hashes, whatever their order."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

from encodery.corpus.document import Document


class DocumentSample:
    """Texts that can be iterated repeatedly, kept as UTF-8: `bytes` of them in memory.

    Documents are truncated to `max_document_bytes`. If `total_documents` have more than `max_bytes`, those with the
    smallest hashes stay, so that the sample is a function of the set of documents.
    """

    def __init__(self, documents: Iterable[Document], max_bytes: int, max_document_bytes: int) -> None:
        self.bytes = 0
        self.total_documents = 0
        heap: list[tuple[int, bytes]] = []
        for document in documents:
            text = document.text.encode("utf-8", errors="replace")[:max_document_bytes]
            digest = hashlib.blake2b(document.id.encode() + b"\0" + text[:4096], digest_size=8).digest()
            self.total_documents += 1
            self.bytes += len(text)
            heapq.heappush(heap, (-int.from_bytes(digest, "big"), text))
            while self.bytes > max_bytes and len(heap) > 1:
                self.bytes -= len(heapq.heappop(heap)[1])
        self._texts = [text for _, text in sorted(heap, reverse=True)]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return (text.decode("utf-8", errors="ignore") for text in self._texts)
