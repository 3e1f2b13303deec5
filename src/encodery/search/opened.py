"""An index opened: its settings, its store, and the models it was made with, loaded when first needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError
from encodery.base.settings import decode
from encodery.embed.finishing import Finishing
from encodery.search.index import FINISH, FUSION, KIND, STORE, IndexSettings
from encodery.search.sides import SIDES, Dense, Finder, Side, Words, load, mode_of, sides_of
from encodery.search.store import Store

WORDS = Words()


class Opened:
    """Holds the store of an index; use it as a context, or close it.

    `encoder` (or several), or `model` (a path, or several), replaces the model of its kind whose path is noted in the
    index. `weights`: mode -> share in hybrid ranking; `weight`: that of all models together. Raises `ArtifactError` for
    what is no index, or is in use by another process.
    """

    def __init__(
        self, folder: str | Path, encoder: Any = None, model: str | Path | Sequence[str | Path] | None = None
    ) -> None:
        self.artifact = Artifact.open(folder, KIND)
        held = self.artifact.manifest.settings
        self.settings = decode(IndexSettings, held["index"], where=str(folder))
        self.models: dict[str, dict[str, Any]] = held["models"] if "models" in held else _only(held["model"])
        given = [model] if isinstance(model, str | Path) else list(model or ())
        self._paths = {mode_of(path): path for path in given}
        self.finishing: Finishing | None = None
        if Dense.mode in self.models:
            self.finishing = Finishing.load(self.settings.finish, self.path / FINISH)
        self._sides: dict[str, Side] = {}
        for side in sides_of(encoder):
            self._keep(side, "the given encoder")
        self.weights = self._weights()
        self.store: Store = self.settings.engine.open(self.path / STORE)

    @property
    def path(self) -> Path:
        """The index's folder."""
        return self.artifact.path

    @property
    def modes(self) -> tuple[str, ...]:
        """The ways to search it, the one taken unasked first."""
        single = (*self.models, WORDS.mode)
        return ("hybrid", *single) if self.models else single

    @property
    def weight(self) -> float:
        """The share of all models together in hybrid ranking, beside words."""
        return round(1 - self.weights[WORDS.mode], 6)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Of all its models. Raises `ArtifactError` where one is gone or is another one."""
        return tuple(self.side(mode) for mode in self.models)

    def side(self, mode: str) -> Side:
        """The side of one model. Raises as `sides`, and `InputError` where the index was made without such a model."""
        if mode not in self.models:
            raise InputError(
                f"{self.path}: was made without a model for '{mode}' and can only be searched by "
                f"{', '.join(m for m in self.modes if m != 'hybrid')}."
            )
        if mode not in self._sides:
            where = self._paths.get(mode, self.models[mode]["path"])
            if not str(where) or not Path(where).exists():
                raise ArtifactError(
                    f"{self.path}: was made with the model at '{where}', which is not there. Give its new place with "
                    "--model, or search by words (--mode bm25)."
                )
            self._keep(load(where), str(where))
        return self._sides[mode]

    def finder(self, mode: str) -> Finder:
        """Words, or a model's side."""
        return WORDS if mode == WORDS.mode else self.side(mode)

    def _keep(self, side: Side, name: str) -> None:
        """Note a side, after making sure that it is the index's own. Without such a model it has no use for it."""
        if side.mode not in self.models:
            return
        held = self.models[side.mode]["fingerprint"]
        if side.fingerprint != held:
            raise ArtifactError(
                f"{self.path}: was made with another model than {name} (fingerprints {held[:8]} "
                f"and {side.fingerprint[:8]}): their vectors cannot be compared. Index again, or give that model."
            )
        self._sides[side.mode] = side.finished(self.finishing)

    def _weights(self) -> dict[str, float]:
        file = self.path / FUSION
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            found = stored.get("weights") or {WORDS.mode: 1 - stored["weight"], Dense.mode: stored["weight"]}
            return {mode: float(found[mode]) for mode in (WORDS.mode, *self.models)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged or missing: {error}") from error

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _only(model: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The models of an index of version 0.1, which had one of vectors, or none."""
    return {} if model is None else {Dense.mode: model}


def known_modes() -> tuple[str, ...]:
    """All ways to search that some index has."""
    return ("hybrid", *SIDES, WORDS.mode)
