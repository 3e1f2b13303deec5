"""An index opened: its settings, its store, and the model it was made with, loaded when first needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError
from encodery.base.settings import decode
from encodery.embed.finishing import Finishing
from encodery.search.encoder import TextEncoder
from encodery.search.index import FINISH, FUSION, KIND, STORE, IndexSettings
from encodery.search.store import Store


class Opened:
    """Holds the store of an index; use it as a context, or close it.

    `encoder` or `model`, a path, replaces the model whose path is noted in the index. `weight` is the share of
    vectors in hybrid ranking. Raises `ArtifactError` for what is no index, or is in use by another process.
    """

    def __init__(self, folder: str | Path, encoder: TextEncoder | None = None, model: str | Path | None = None) -> None:
        self.artifact = Artifact.open(folder, KIND)
        held = self.artifact.manifest.settings
        self.settings = decode(IndexSettings, held["index"], where=str(folder))
        self.model: dict[str, Any] | None = held["model"]
        self._path = model
        self._encoder: TextEncoder | None = None
        if encoder is not None:
            self._encoder = self._checked(encoder, "the given encoder")
        self.finishing: Finishing | None = None
        if self.model is not None:
            self.finishing = Finishing.load(self.settings.finish, self.path / FINISH)
        self.weight = self._weight()
        self.store: Store = self.settings.engine.open(self.path / STORE)

    @property
    def path(self) -> Path:
        """The index's folder."""
        return self.artifact.path

    @property
    def has_vectors(self) -> bool:
        """Whether passages can be found by vector."""
        return self.model is not None

    @property
    def encoder(self) -> TextEncoder:
        """The model's encoder. Raises `InputError` in an index of words alone, `ArtifactError` where the model is gone
        or is another one."""
        if self._encoder is None:
            if self.model is None:
                raise InputError(f"{self.path}: was made without a model and can only be searched by words (bm25).")
            where = self._path if self._path is not None else self.model["path"]
            self._encoder = self._checked(_load(where, self.path), str(where))
        return self._encoder

    def _checked(self, encoder: TextEncoder, name: str) -> TextEncoder:
        if self.model is not None and encoder.fingerprint != self.model["fingerprint"]:
            raise ArtifactError(
                f"{self.path}: was made with another model than {name} (fingerprints {self.model['fingerprint'][:8]} "
                f"and {encoder.fingerprint[:8]}): their vectors cannot be compared. Index again, or give that model."
            )
        return encoder

    def _weight(self) -> float:
        file = self.path / FUSION
        try:
            return float(json.loads(file.read_text(encoding="utf-8"))["weight"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged or missing: {error}") from error

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _load(where: str | Path, index: Path) -> TextEncoder:
    from encodery.embed.embedder import Embedder
    from encodery.model.load import load_model

    if not str(where) or not Path(where).exists():
        raise ArtifactError(
            f"{index}: was made with the model at '{where}', which is not there. Give its new place with --model, or "
            "search by words (--mode bm25)."
        )
    return Embedder.of(load_model(where))
