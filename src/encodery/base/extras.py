"""Optional packages: imported when needed; a missing one is reported with the pip command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from encodery.base.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import a module. Raises `MissingExtra` with the pip command of the extra that contains it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtra(
            f"The package '{error.name}' is not installed. Install it with: pip install 'encodery[{extra}]'"
        ) from error
