"""encodery: from a folder of text to a served transformer encoder.

    import encodery as en
    model = en.load("runs/mine")          # a run, a model folder, a Hugging Face folder
    model.encode(["one text", "another"])  # (2, dimension) float32
    model.fill("To be or [MASK] to be.")

Names are loaded when they are first used, so that importing the package is fast.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encodery.encoders.dense import DenseEncoder
    from encodery.encoders.embeddings import DenseEmbeddings
    from encodery.generate import GeneratedText
    from encodery.library import TextModel, load
    from encodery.search.searcher import Searcher
    from encodery.tokens.tokenizer import Tokenizer

__version__ = version("encodery")

__all__ = [
    "DenseEmbeddings",
    "DenseEncoder",
    "GeneratedText",
    "Searcher",
    "TextModel",
    "Tokenizer",
    "__version__",
    "load",
]

_MODULES = {
    "DenseEmbeddings": "encodery.encoders.embeddings",
    "DenseEncoder": "encodery.encoders.dense",
    "GeneratedText": "encodery.generate",
    "TextModel": "encodery.library",
    "Searcher": "encodery.search.searcher",
    "Tokenizer": "encodery.tokens.tokenizer",
    "load": "encodery.library",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'encodery' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
