"""Which documents of a split are related: those that have the same value in a field of their metadata.

Shapes: D documents.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from encodery.corpus.document import Document
from encodery.tokens.shuffle import Integers


def group_of(document: Document, key: str) -> int:
    """Return the group of a document, a hash of its metadata `key`; that of no other document without one."""
    value = document.metadata.get(key)
    named = f"id {document.id}" if value in (None, "", [], {}) else f"value {json.dumps(value, sort_keys=True)}"
    return int.from_bytes(
        hashlib.blake2b(named.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True
    )


class DocumentGroups:
    """The documents of each group. Holds 16 bytes per document in memory.

    Args:
        groups: The group of each document (D,).
    """

    def __init__(self, groups: Integers) -> None:
        self.order: Integers = np.argsort(groups, kind="stable")
        self.sorted: Integers = groups[self.order]

    def of(self, group: int) -> Integers:
        """Return the documents of a group, ascending."""
        first, last = (int(self.sorted.searchsorted(group, side)) for side in ("left", "right"))
        return self.order[first:last]

    @property
    def count(self) -> int:
        """The number of documents that are related to another one."""
        same = self.sorted[1:] == self.sorted[:-1]
        edges = np.concatenate([[False], same]) | np.concatenate([same, [False]])
        return int(edges.sum()) if len(self.sorted) else 0
