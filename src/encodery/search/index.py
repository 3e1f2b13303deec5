"""An open index: its settings, its store and the records of the models it was built with. It loads no model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.base.settings import decode
from encodery.encoders.postprocessing import PostProcessing
from encodery.search.build import FUSION, KIND, POSTPROCESS, STORE, IndexSettings
from encodery.search.modes import BM25, DENSE, HYBRID
from encodery.search.store import Store


class SearchIndex:
    """An index in a folder, with its store open. Use it as a context, or close it.

    Args:
        folder: what `encodery search index` wrote.

    Attributes:
        models: mode -> the record of the model that made the embeddings of that mode.
        weights: mode -> weight in hybrid ranking; they sum to 1.
        postprocess: the steps that the index applies to dense vectors after the model's own, if it has any.

    Raises `ArtifactError` for a folder that is no index, and for an index that another process has open.
    """

    def __init__(self, folder: str | Path) -> None:
        self.artifact = Artifact.open(folder, KIND)
        stored = self.artifact.manifest.settings
        self.settings = decode(IndexSettings, stored["index"], where=str(folder))
        self.models: dict[str, dict[str, Any]] = stored["models"]
        self.postprocess: PostProcessing | None = None
        if DENSE in self.models:
            self.postprocess = PostProcessing.load(self.settings.postprocess, self.path / POSTPROCESS)
        self.weights = self._read_weights()
        self.store: Store = self.settings.engine.open(self.path / STORE)

    @property
    def path(self) -> Path:
        """The folder of the index."""
        return self.artifact.path

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes in which the index can be searched; the default comes first."""
        single = (*self.models, BM25)
        return (HYBRID, *single) if self.models else single

    @property
    def weight(self) -> float:
        """The weight of all models together in hybrid ranking; the rest is the weight of BM25."""
        return round(1 - self.weights[BM25], 6)

    def with_store(self, store: Store) -> SearchIndex:
        """Return the same index over another store, which holds passages of the same fields."""
        other = copy.copy(self)
        other.store = store
        return other

    def close(self) -> None:
        """Close the store, so that another process can open it."""
        self.store.close()

    def __enter__(self) -> SearchIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_weights(self) -> dict[str, float]:
        file = self.path / FUSION
        try:
            weights = json.loads(file.read_text(encoding="utf-8"))["weights"]
            return {mode: float(weights[mode]) for mode in (BM25, *self.models)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged or missing: {error}") from error
