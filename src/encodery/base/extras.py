"""Optional packages: imported when needed, and named with their pip line when missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from encodery.base.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """The module, or `MissingExtra` with the pip line of the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtra(f"This needs the package '{error.name}': pip install 'encodery[{extra}]'") from error
