"""A tokenizer of a few words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    return word_tokenizer(["the", "cat", "dog", "sat", "ran", "##s", ".", "on"])
