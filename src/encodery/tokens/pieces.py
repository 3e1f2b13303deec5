"""Pieces of one vocabulary in terms of another: which are equal, and which old pieces spell a new one.

WordPiece, byte-level and Unigram vocabularies write pieces differently; here a piece is its text and whether it begins
a word, so that vocabularies of different kinds can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from encodery.tokens.tokenizer import Tokenizer

MARK, REPLACEMENT_CHARACTER = "▁", "\ufffd"
CARRIERS = ("a", "o", "x", "9", "A", "-")
NormalisedPiece = tuple[str, str]
"""("start" | "inside" | "special" | "bytes", text)."""


def normalised_pieces(tokenizer: Tokenizer) -> dict[int, NormalisedPiece]:
    """Return the piece of each id that has one."""
    spec = json.loads(tokenizer.backend.to_str())
    roles = {name: role for role, name in tokenizer.roles.items() if name is not None}
    numbers = [number for number, piece in enumerate(tokenizer.pieces) if piece]
    prefix = spec["model"].get("continuing_subword_prefix") or ""
    byte_level = "ByteLevel" in json.dumps(spec.get("decoder"))
    texts = tokenizer.backend.decode_batch([[n] for n in numbers], skip_special_tokens=False) if byte_level else []
    pieces: dict[int, NormalisedPiece] = {}
    for index, number in enumerate(numbers):
        piece = tokenizer.pieces[number]
        if number in tokenizer.special_ids:
            pieces[number] = ("special", roles.get(piece, piece))
        elif byte_level and REPLACEMENT_CHARACTER in texts[index]:
            pieces[number] = ("bytes", piece)
        elif byte_level:
            pieces[number] = _split(texts[index], " ")
        elif spec["model"].get("type") == "WordPiece":
            inside = bool(prefix) and piece.startswith(prefix) and piece != prefix
            pieces[number] = ("inside", piece.removeprefix(prefix)) if inside else ("start", piece)
        else:
            pieces[number] = _split(piece, MARK)
    return pieces


def spell(old: Tokenizer, piece: NormalisedPiece) -> list[int]:
    """Return the ids with which the old tokenizer spells a piece; an empty list if it cannot."""
    kind, text = piece
    if kind in ("special", "bytes") or not text:
        return []
    unknown = old.unk_id
    for ids in _spellings(old, text, kind == "start"):
        known = [number for number in ids if number != unknown]
        if known:
            return known
    return []


def _spellings(old: Tokenizer, text: str, start: bool) -> Iterator[list[int]]:
    """Ways to spell it, the best one first: inside a word it is written after a letter, which is then removed."""
    if start:
        yield old.encode(" " + text).tolist()
    else:
        for carrier in CARRIERS:
            ids, offsets = old.encode_with_offsets(carrier + text)
            if len(ids) and all(begin >= 1 or end <= 1 for begin, end in offsets.tolist()):
                yield [number for number, (begin, _) in zip(ids.tolist(), offsets.tolist(), strict=True) if begin >= 1]
    yield old.encode(text).tolist()


def _split(text: str, mark: str) -> NormalisedPiece:
    begins = text.startswith(mark) and text != mark
    return ("start", text.removeprefix(mark)) if begins else ("inside", text)
