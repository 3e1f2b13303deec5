"""Tokenizers of letters and of words, small random encoders, pairs with something to learn in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encodery.embed.data import EmbeddingExamples
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One token a letter."""
    return word_tokenizer("abcdefghijklmnopqrstuvwxyz", at="letters")


@pytest.fixture(scope="session")
def embedder(tokenizer: Tokenizer) -> DenseEncoder:
    """Reads 10 letters and two special tokens."""
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=64, max_length=12)
    return DenseEncoder(build_model(settings, seed=0), tokenizer, DenseSettings(prompts={"ask": "q "}), device="cpu")


@pytest.fixture(scope="session")
def words(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One token a word: a0 … a39, b0 … b39 and the letters a, b, c."""
    return word_tokenizer([*(f"{side}{i}" for side in "ab" for i in range(40)), "a", "b", "c"], at="spaces")


@pytest.fixture(scope="session")
def loaded(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> LoadedModel:
    """A small random encoder of those words, saved and loaded."""
    return load_model(small_model(tmp_path_factory.mktemp("words"), words, max_length=16))


@pytest.fixture(scope="session")
def pairs() -> Callable[[int, int], EmbeddingExamples]:
    """`pairs(count, seed)`: three words of one side, and those of the same numbers on the other, in another order."""

    def make(count: int, seed: int) -> EmbeddingExamples:
        rng = np.random.default_rng(seed)
        drawn = [rng.choice(40, 3, replace=False) for _ in range(count)]
        left = [" ".join(f"a{i}" for i in some) for some in drawn]
        right = [" ".join(f"b{i}" for i in rng.permutation(some)) for some in drawn]
        return EmbeddingExamples((left, right))

    return make
