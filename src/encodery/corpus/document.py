"""One document of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """`id`: 16 hexadecimal digits of the text's hash. `metadata`: source, path, format, split, and what the input
    row said (license, title, …)."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
