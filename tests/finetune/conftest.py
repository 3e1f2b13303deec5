"""A small random encoder whose tokens are words, and rows with something to learn in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.model.load import LoadedModel, load_model
from encodery.tokens.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["red", "green", "blue", "one", "two", "six", "cat", "dog", "sun", "sky", ".", "who", "##s"]
Rows = Mapping[str, Sequence[Any]]


@pytest.fixture(scope="session")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    """One piece a word, one for the ending s, and one for the full stop."""
    return word_tokenizer(WORDS)


@pytest.fixture(scope="session")
def loaded(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]
) -> LoadedModel:
    """Reads 24 tokens, tells two segments apart."""
    return load_model(small_model(tmp_path_factory.mktemp("encoder"), tokenizer, max_length=24, type_vocab_size=2))


def _sentence(draw: np.random.Generator, length: int) -> list[str]:
    return [str(word) for word in draw.choice(["one", "two", "six", "cat", "dog", "sun", "sky"], length)]


def rows_of(task: str, count: int, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of a task: the colour in a text is its class, its tag, its answer."""
    draw = np.random.default_rng(seed)
    colours = ["red", "green", "blue"]
    columns: dict[str, list[Any]] = {}

    def add(**values: Any) -> None:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    for _ in range(count):
        words = _sentence(draw, int(draw.integers(3, 8)))
        colour, other = (str(c) for c in draw.permutation(colours)[:2])
        place = int(draw.integers(len(words)))
        text = " ".join([*words[:place], colour, *words[place:]])
        same = bool(draw.random() < 0.5)
        if task == "classify":
            add(text=text, label=colour)
        elif task == "pair":
            add(text=text, text_b=colour if same else other, label="same" if same else "other")
        elif task == "regress":
            add(text=text, score=10.0 * colours.index(colour) + 5)
        elif task == "multilabel":
            add(text=f"{text} {other}" if same else text, labels=sorted([colour, other]) if same else [colour])
        elif task == "tag":
            tokens = text.split()
            add(tokens=tokens, tags=["B-colour" if token in colours else "O" for token in tokens])
        elif task == "span":
            start = text.index(colour)
            gone = {"text": [], "answer_start": []}
            add(question="who", context=text, answers={"text": [colour], "answer_start": [start]})
            if same:
                add(question="who", context=" ".join(words), answers=gone)
        elif task == "choice":
            choices = [str(c) for c in draw.permutation(colours)]
            add(question=text, choices=choices, label=choices.index(colour))
        elif task == "rank":
            add(query=colour, text=text if same else " ".join(words), score=float(same))
        else:
            raise KeyError(task)
    return columns


@pytest.fixture(scope="session")
def rows() -> Callable[..., dict[str, list[Any]]]:
    """`rows(task, count, seed)`."""
    return rows_of


@pytest.fixture
def model_folder(loaded: LoadedModel) -> Path:
    return loaded.path
