"""Search engines: store passages and find them by BM25, dense, learned sparse and multi-vector embeddings."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from pathlib import Path

from encodery.base.parts import Part
from encodery.search.store import Fields, Store


class SearchEngine(Part):
    """Creates and opens stores."""

    def for_texts(self, texts: Iterable[str]) -> SearchEngine:
        """Return the engine with what it leaves to the texts of an index, such as their language, chosen by some of
        them. By default nothing is left."""
        return self

    @abc.abstractmethod
    def create(self, folder: Path, fields: Fields) -> Store:
        """Create an empty store for passages with these fields, whose files are in `folder`.

        Raises `InputError` if there is one already, and `MissingExtra` if the engine's package is not installed."""

    @abc.abstractmethod
    def open(self, folder: Path) -> Store:
        """Open the store that `create` made. Raises `ArtifactError` if there is none, or if it is damaged or in use."""

    def remote_cleanup(self, folder: Path) -> Callable[[], None]:
        """Return a function that removes all that the store of `folder` keeps elsewhere, even if the folder is gone by
        then. By default there is nothing to remove."""
        return lambda: None

    def scratch_engine(self) -> SearchEngine:
        """Return the engine for a small temporary store: this one, unless it stores passages on a server."""
        return self
