"""Which documents are held out: those whose hash, read as a number in [0, 1), lies below a threshold.

The hash is that of the text, so the choice depends neither on order nor on workers, nor on what else is in the
corpus; two documents of the same text are always on the same side. The pieces of one long document are separate
documents here. In a small corpus the share would hold out nothing or next to nothing: there the threshold is put so
that `heldout_documents` are (at most a tenth, at least one of two).
"""

from __future__ import annotations

import hashlib


def text_id(text: str) -> str:
    """16 hexadecimal digits: BLAKE2b of the UTF-8 text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def hash_position(identity: str) -> float:
    """The place of a document in [0, 1). Hashed once more, so that a sort by id is no sort by split."""
    digest = hashlib.blake2b(bytes.fromhex(identity), digest_size=8, person=b"heldout").digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def heldout_count(documents: int, fraction: float, minimum: int) -> int | None:
    """How many documents a small corpus holds out; `None` where the share alone decides."""
    if fraction == 0 or documents * fraction >= minimum:
        return None
    floor = 1 if documents > 1 else 0
    return max(min(minimum, documents // 10), round(documents * fraction), floor)


def heldout_threshold(smallest: list[float], count: int) -> float:
    """The threshold below which `count` of the positions lie; `smallest` holds at least `count` + 1 where there are
    so many."""
    ordered = sorted(smallest)
    return ordered[count] if count < len(ordered) else 1.0
