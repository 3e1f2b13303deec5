"""Engines: where passages are stored and found, by words (BM25) and by vector."""

from __future__ import annotations

import abc
from pathlib import Path

from encodery.base.parts import Part
from encodery.search.store import Store


class Engine(Part):
    """Makes and opens stores."""

    @abc.abstractmethod
    def create(self, folder: Path, width: int | None) -> Store:
        """A new, empty store whose files lie in `folder`; `width` None stores words only.

        Raises `InputError` if there is one already, `MissingExtra` where the engine's package is not installed.
        """

    @abc.abstractmethod
    def open(self, folder: Path) -> Store:
        """The store that `create` made there. Raises `ArtifactError` if there is none, it is damaged or in use."""
