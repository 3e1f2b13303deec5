"""A stand-in for an encoder that is instant and right: bags of hashed words, turned at random."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from encodery.encoders import TextEncoder
from encodery.encoders.embeddings import DenseEmbeddings

WIDTH = 32
TOPICS = {
    "cooking": "boil simmer onion garlic pan sauce roast oven butter flour salt pepper stew dough knead",
    "sailing": "mast sail harbour anchor tide rudder keel storm compass deck crew voyage wind rope hull",
    "music": "violin chord rhythm melody tempo orchestra sonata drum flute harmony concert tune bass choir",
}


@functools.cache
def word_vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
    return np.random.default_rng(seed).standard_normal(WIDTH)


class FakeTokenizer:
    """Words and marks."""

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.array([m.span() for m in re.finditer(r"\w+|[^\w\s]", text)], np.int64).reshape(-1, 2)
        return np.arange(len(offsets)), offsets


class FakeEncoder(TextEncoder):
    """`wrong` shifts every vector, as another model would."""

    kind = "dense"
    dimension = WIDTH
    max_content_tokens = 64
    fingerprint = ""
    tokenizer: Any = FakeTokenizer()

    def __init__(self, wrong: bool = False) -> None:
        self.fingerprint = "wrong" * 4 if wrong else "right" * 4
        self.encoded = 0

    prompts: ClassVar[dict[str, str]] = {}

    def encode(self, texts: Sequence[str], truncate: str = "error", *_: Any, **__: Any) -> DenseEmbeddings:
        self.encoded += len(texts)
        vectors = np.array([self.vector(text) for text in texts], np.float32).reshape(-1, WIDTH)
        tokens = np.array([len(text.split()) for text in texts])
        return DenseEmbeddings(vectors, tokens, np.zeros(len(texts), np.int64))

    def vector(self, text: str) -> np.ndarray:
        total = np.full(WIDTH, 0.1)
        for word in re.findall(r"\w+", text.lower()):
            total += word_vector(word)
        return total


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def other_encoder() -> FakeEncoder:
    """Another model than `encoder`."""
    return FakeEncoder(wrong=True)


def sentences(topic: str, count: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    made = [
        " ".join(rng.choice(TOPICS[topic].split(), size=8)).capitalize() + f" mark{seed}x{i}." for i in range(count)
    ]
    return " ".join(made)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Thirty-six documents of three topics as JSON lines; document i bears the word `mark<i>x0`."""
    names = sorted(TOPICS)
    file = tmp_path / "rows.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for i in range(36):
            topic = names[i % 3]
            row = {"id": f"doc{i}", "text": sentences(topic, 4 + i % 20, i), "topic": topic, "year": 1990 + i % 10}
            stream.write(json.dumps(row | {"title": f"Title number {i}"}) + "\n")
    return file
