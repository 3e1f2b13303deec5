"""One document of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus.

    `id` consists of 16 hexadecimal digits of the hash of the text. `metadata` contains source, path, format, split, and
    the metadata of the input row (license, title, …).
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
