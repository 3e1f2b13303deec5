"""Engines: where passages are stored and found: by words (BM25), by vector, by learned words, by vectors of tokens."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path

from encodery.base.parts import Part
from encodery.search.store import Fields, Store


class SearchEngine(Part):
    """Makes and opens stores."""

    @abc.abstractmethod
    def create(self, folder: Path, fields: Fields) -> Store:
        """A new, empty store whose files lie in `folder`, for passages of these fields.

        Raises `InputError` if there is one already, `MissingExtra` where the engine's package is not installed.
        """

    @abc.abstractmethod
    def open(self, folder: Path) -> Store:
        """The store that `create` made there. Raises `ArtifactError` if there is none, it is damaged or in use."""

    def remote_cleanup(self, folder: Path) -> Callable[[], None]:
        """What removes all that the store of `folder` keeps elsewhere, also once the folder is gone. Nothing here."""
        return lambda: None

    def scratch_engine(self) -> SearchEngine:
        """The engine for a small store that is thrown away at once: this one, where it needs nobody else's room."""
        return self
