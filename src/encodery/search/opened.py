"""An index opened: its settings, its store, and the models it was made with, loaded when first needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError, UserError
from encodery.base.settings import decode
from encodery.embed.finishing import Finishing
from encodery.search.index import FINISH, FUSION, KIND, STORE, IndexSettings
from encodery.search.ran import Ran
from encodery.search.sides import SIDES, Dense, Finder, Side, Words, load, mode_of, sides_of
from encodery.search.store import Store

WORDS = Words()


class Opened:
    """Holds the store of an index; use it as a context, or close it.

    `encoder` (or several), or `model` (a path, or several), replaces the model of its kind whose path is noted in the
    index. A model of one vector a text is run as it was when the index was made, or by `runtime`. `weights`: mode ->
    share in hybrid ranking; `weight`: that of all models together. Raises `ArtifactError` for what is no index, or is
    in use by another process.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: Any = None,
        model: str | Path | Sequence[str | Path] | None = None,
        runtime: str | None = None,
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
        self._runtime = runtime
        if runtime is not None and Dense.mode not in self.models:
            raise InputError(f"runtime = '{runtime}': runs models of one vector a text; {self.path} has none.")
        self._sides: dict[str, Side] = {}
        self._notes: dict[str, str] = {}
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
            self._keep(self._load(mode, where), str(where))
        return self._sides[mode]

    def _load(self, mode: str, where: str | Path) -> Side:
        """A model run as asked, or else as it was."""
        if self._runtime is not None or mode != Dense.mode:
            return load(where, self._runtime)
        ran = self._ran(mode)
        try:
            return load(where, None if ran is None else ran.asked)
        except UserError as error:
            if ran is None or ran.asked is None:
                raise
            raise ArtifactError(
                f"{self.path}: was made by the runtime '{ran.asked}', which cannot run here: {error} "
                "Another may ask instead, such as 'torch' (--runtime torch)."
            ) from error

    def _ran(self, mode: str) -> Ran | None:
        return Ran.read(self.models[mode].get("runtime"))

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the models loaded so far, those that another runtime runs than made the index's vectors: a line each."""
        return tuple(self._notes.values())

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
        ran = self._ran(side.mode)
        if ran is not None and not ran.same(side.ran):
            names = ran.name or "an encoder of its own", side.ran.name or "an encoder of its own"
            other = f"by {names[1]}" if names[0] != names[1] else "by another export or other settings of it"
            self._notes[side.mode] = (
                f"{self.path}: its vectors were made by {names[0]}, the query's {other}: near each other, not equal."
            )

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
