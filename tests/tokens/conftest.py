"""Small stores of made-up ids, for the tests of the feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from encodery.base.artifact import writing
from encodery.tokens.shards import ShardWriter, index_split, narrowest
from encodery.tokens.store import Specials, TokenStore

SPECIALS = Specials(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=512)


def _make_store(
    folder: Path, lengths: Iterable[int], shard_documents: int = 50, seed: int = 0, vocab_size: int = 512
) -> TokenStore:
    """A store of documents of these lengths, ids 5..vocab_size-1 at random; the held-out split has two documents."""
    rng = np.random.default_rng(seed)
    train = [rng.integers(5, vocab_size, n).astype(np.uint32) for n in lengths]
    specials = Specials(**{**asdict(SPECIALS), "vocab_size": vocab_size})
    dtype = narrowest(vocab_size)
    settings = {"dtype": dtype, "specials": asdict(specials)}
    with writing(folder, "tokens", settings) as draft:
        for name, documents in (("train", train), ("heldout", train[:2])):
            split = draft.path / name
            notes = []
            for number, first in enumerate(range(0, len(documents), shard_documents)):
                writer = ShardWriter(split, number, dtype, specials.unk_id)
                some = documents[first : first + shard_documents]
                notes.append(writer.write([(ids, 4 * len(ids)) for ids in some], f"made up {number}"))
            draft.figures[name] = index_split(split, notes)
    return TokenStore.open(folder)


@pytest.fixture(scope="session")
def make_store() -> Callable[..., TokenStore]:
    """`make_store(folder, lengths, ...)`: a store of made-up documents."""
    return _make_store
