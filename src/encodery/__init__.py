"""encodery: from a folder of text to a served transformer encoder.

    import encodery as en
    model = en.load("runs/mine")          # a run, a model folder, a Hugging Face folder
    model.encode(["one text", "another"])  # (2, width) float32
    model.fill("To be or [MASK] to be.")

Names are loaded when first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encodery.embed.embedder import Embedded, Embedder
    from encodery.generate import Generated
    from encodery.library import Handle, load
    from encodery.search.searcher import Searcher
    from encodery.tokens.tokenizer import Tokenizer

__version__ = version("encodery")

__all__ = ["Embedded", "Embedder", "Generated", "Handle", "Searcher", "Tokenizer", "__version__", "load"]

_HOMES = {
    "Embedded": "encodery.embed.embedder",
    "Embedder": "encodery.embed.embedder",
    "Generated": "encodery.generate",
    "Handle": "encodery.library",
    "Searcher": "encodery.search.searcher",
    "Tokenizer": "encodery.tokens.tokenizer",
    "load": "encodery.library",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'encodery' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
