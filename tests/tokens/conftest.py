"""Small stores of made-up ids, and a small corpus of real English: the language reference that Python brings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from encodery.base.artifact import Artifact, create_artifact, seal
from encodery.tokens.shards import TokenShardWriter, id_dtype, index_split
from encodery.tokens.store import SpecialTokens, TokenStore
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.train import TokenizerSettings, train_tokenizer

SPECIALS = SpecialTokens(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, vocab_size=512)


def _make_store(
    folder: Path, lengths: Iterable[int], shard_documents: int = 50, seed: int = 0, vocab_size: int = 512
) -> TokenStore:
    """A store of documents of these lengths, ids 5..vocab_size-1 at random; the held-out split has two documents."""
    rng = np.random.default_rng(seed)
    train = [rng.integers(5, vocab_size, n).astype(np.uint32) for n in lengths]
    specials = SpecialTokens(**{**asdict(SPECIALS), "vocab_size": vocab_size})
    dtype = id_dtype(vocab_size)
    settings = {"dtype": dtype, "special_tokens": asdict(specials)}
    with create_artifact(folder, "tokens", settings) as draft:
        for name, documents in (("train", train), ("heldout", train[:2])):
            split = draft.path / name
            notes = []
            for number, first in enumerate(range(0, len(documents), shard_documents)):
                writer = TokenShardWriter(split, number, dtype, specials.unk_id)
                some = documents[first : first + shard_documents]
                notes.append(writer.write([(ids, 4 * len(ids)) for ids in some], f"made up {number}"))
            draft.metrics[name] = index_split(split, notes)
    return TokenStore.open(folder)


@pytest.fixture(scope="session")
def make_store() -> Callable[..., TokenStore]:
    """`make_store(folder, lengths, ...)`: a store of made-up documents."""
    return _make_store


def _make_corpus(folder: Path, train: list[str], heldout: list[str], shards: int = 4) -> Artifact:
    for split, texts, count in (("train", train, shards), ("heldout", heldout, 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            rows = []
            for place, text in enumerate(texts[number::count]):
                name = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
                rows.append({"id": name, "text": text, "metadata": {"source": f"part {place % 2}"}})
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / split / f"{number:05d}.jsonl").write_text(lines, encoding="utf-8")
    return seal(folder, "corpus", {})


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Artifact]:
    """`make_corpus(folder, train texts, heldout texts, shards)`: a corpus in the layout of the corpus stage."""
    return _make_corpus


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Some 60 documents, 300 kB."""
    return [text for _, text in sorted(topics.items()) if len(text) > 1000][:60]


@pytest.fixture(scope="session")
def corpus(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of `texts`: the last eight are held out."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    _make_corpus(folder, texts[:-8], texts[-8:])
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(corpus: Path) -> Path:
    """A WordPiece tokenizer of 1,000 ids, trained on `corpus`."""
    folder = corpus.parent / "wordpiece"
    train_tokenizer(corpus, folder, TokenizerSettings(vocab_size=1000))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)
