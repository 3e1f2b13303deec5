"""Which pieces of a vocabulary begin a word, as whole-word masking needs it.

WordPiece marks pieces that continue a word, Unigram those that begin one. A byte-level piece begins a word if its first
byte is a space or ASCII punctuation, which are words by themselves; letters, digits and bytes of longer characters
continue what precedes them. Special tokens begin a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from encodery.tokens.byte_characters import BYTE_OF_CHARACTER

MARK = "▁"


def word_starts(pieces: list[str], special: frozenset[int], spec: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Return (V,) bool for the pieces in order of id; `spec` is the parsed `tokenizer.json`."""
    model = spec["model"]
    if model.get("type") == "WordPiece":
        prefix = model.get("continuing_subword_prefix", "##")
        begins = [not piece.startswith(prefix) for piece in pieces]
    elif _names(spec.get("pre_tokenizer")) & {"ByteLevel"}:
        begins = [_byte_begins(piece) for piece in pieces]
    else:
        begins = [piece.startswith((MARK, " ")) or (len(piece) == 1 and not piece.isalnum()) for piece in pieces]
    starts = np.asarray(begins, dtype=np.bool_)
    starts[sorted(special)] = True
    return starts


def _names(part: dict[str, Any] | None) -> set[str]:
    """The types of a pre-tokenizer and of those that it contains."""
    if part is None:
        return set()
    return {part["type"]}.union(*(_names(inner) for inner in part.get("pretokenizers", [])))


def _byte_begins(piece: str) -> bool:
    byte = BYTE_OF_CHARACTER.get(piece[:1])
    return byte is not None and byte < 0x80 and not chr(byte).isalnum()
