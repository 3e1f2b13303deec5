"""Tokenizers of letters and of words, and small random models of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from encodery.encoders.dense import DenseEncoder
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def encoder(word_tokenizer: Callable[..., Tokenizer]) -> DenseEncoder:
    """An encoder whose tokens are letters; it reads 10 letters and two special tokens."""
    tokenizer = word_tokenizer("abcdefghijklmnopqrstuvwxyz", at="letters")
    settings = ModelSettings(width=32, depth=2, heads=2, vocab_size=64, max_length=12)
    return DenseEncoder(build_model(settings, seed=0), tokenizer, DenseSettings(prompts={"ask": "q "}), device="cpu")


@pytest.fixture(scope="session")
def words(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One token per word: a0 … a39, b0 … b39 and the letters a, b, c."""
    return word_tokenizer([*(f"{side}{i}" for side in "ab" for i in range(40)), "a", "b", "c"], at="spaces")


@pytest.fixture(scope="session")
def loaded(words: Tokenizer, tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> LoadedModel:
    """A small random model of those words, saved and loaded; it reads 14 words."""
    return load_model(small_model(tmp_path_factory.mktemp("words"), words, max_length=16))
