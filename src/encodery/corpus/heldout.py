"""Choose the held-out documents: those whose hash, read as a number in [0, 1), is below a threshold.

The hash is computed from the text, so the choice does not depend on the order, the workers or the other documents, and
two documents with the same text are always in the same split. The pieces of a long document count as separate
documents. In a small corpus the fraction would hold out few documents or none; the threshold is then chosen so that
`heldout_documents` are held out (at most a tenth of the corpus, and at least one of two documents).
"""

from __future__ import annotations

import hashlib


def text_id(text: str) -> str:
    """Return the id of a text: 16 hexadecimal digits, the BLAKE2b hash of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def hash_position(identity: str) -> float:
    """Return the position of a document in [0, 1). The id is hashed again, so that sorting by id keeps splits mixed."""
    digest = hashlib.blake2b(bytes.fromhex(identity), digest_size=8, person=b"heldout").digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def heldout_count(documents: int, fraction: float, minimum: int) -> int | None:
    """Return how many documents a small corpus holds out; `None` if the fraction decides."""
    if fraction == 0 or documents * fraction >= minimum:
        return None
    floor = 1 if documents > 1 else 0
    return max(min(minimum, documents // 10), round(documents * fraction), floor)


def heldout_threshold(smallest: list[float], count: int) -> float:
    """Return the threshold below which exactly `count` positions lie.

    Args:
        smallest: the smallest positions of the corpus, `count` + 1 of them unless it has fewer documents.
    """
    ordered = sorted(smallest)
    return ordered[count] if count < len(ordered) else 1.0
