"""An index opened: its settings, its store, and the models it was made with, loaded when first needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError, UserError
from encodery.base.settings import decode
from encodery.encoders.postprocessing import PostProcessing
from encodery.search.build import FUSION, KIND, POSTPROCESS, STORE, IndexSettings
from encodery.search.retrievers import (
    SIDES,
    BM25Retriever,
    DenseRetriever,
    ModelRetriever,
    Retriever,
    as_retrievers,
    load_retriever,
    mode_of,
)
from encodery.search.runtime_provenance import RuntimeProvenance
from encodery.search.store import Store

BM25 = BM25Retriever()


class SearchIndex:
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
        self.postprocess: PostProcessing | None = None
        if DenseRetriever.mode in self.models:
            self.postprocess = PostProcessing.load(self.settings.postprocess, self.path / POSTPROCESS)
        self._runtime = runtime
        if runtime is not None and DenseRetriever.mode not in self.models:
            raise InputError(f"runtime = '{runtime}': runs models of one vector a text; {self.path} has none.")
        self._sides: dict[str, ModelRetriever] = {}
        self._notes: dict[str, str] = {}
        for side in as_retrievers(encoder):
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
        single = (*self.models, BM25.mode)
        return ("hybrid", *single) if self.models else single

    @property
    def weight(self) -> float:
        """The share of all models together in hybrid ranking, beside words."""
        return round(1 - self.weights[BM25.mode], 6)

    @property
    def retrievers(self) -> tuple[ModelRetriever, ...]:
        """Of all its models. Raises `ArtifactError` where one is gone or is another one."""
        return tuple(self.retriever(mode) for mode in self.models)

    def retriever(self, mode: str) -> ModelRetriever:
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

    def _load(self, mode: str, where: str | Path) -> ModelRetriever:
        """A model run as asked, or else as it was."""
        if self._runtime is not None or mode != DenseRetriever.mode:
            return load_retriever(where, self._runtime)
        ran = self._ran(mode)
        try:
            return load_retriever(where, None if ran is None else ran.runtime_argument)
        except UserError as error:
            if ran is None or ran.runtime_argument is None:
                raise
            raise ArtifactError(
                f"{self.path}: was made by the runtime '{ran.runtime_argument}', which cannot run here: {error} "
                "Another may ask instead, such as 'torch' (--runtime torch)."
            ) from error

    def _ran(self, mode: str) -> RuntimeProvenance | None:
        return RuntimeProvenance.read(self.models[mode].get("runtime"))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of the models loaded so far, those that another runtime runs than made the index's vectors: a line each."""
        return tuple(self._notes.values())

    def retriever_of_mode(self, mode: str) -> Retriever:
        """Words, or a model's side."""
        return BM25 if mode == BM25.mode else self.retriever(mode)

    def _keep(self, side: ModelRetriever, name: str) -> None:
        """Note a side, after making sure that it is the index's own. Without such a model it has no use for it."""
        if side.mode not in self.models:
            return
        held = self.models[side.mode]["fingerprint"]
        if side.fingerprint != held:
            raise ArtifactError(
                f"{self.path}: was made with another model than {name} (fingerprints {held[:8]} "
                f"and {side.fingerprint[:8]}): their vectors cannot be compared. Index again, or give that model."
            )
        self._sides[side.mode] = side.with_postprocess(self.postprocess)
        ran = self._ran(side.mode)
        if ran is not None and not ran.same_vectors(side.provenance):
            names = ran.name or "an encoder of its own", side.provenance.name or "an encoder of its own"
            other = f"by {names[1]}" if names[0] != names[1] else "by another export or other settings of it"
            self._notes[side.mode] = (
                f"{self.path}: its vectors were made by {names[0]}, the query's {other}: near each other, not equal."
            )

    def _weights(self) -> dict[str, float]:
        file = self.path / FUSION
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            found = stored.get("weights") or {BM25.mode: 1 - stored["weight"], DenseRetriever.mode: stored["weight"]}
            return {mode: float(found[mode]) for mode in (BM25.mode, *self.models)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged or missing: {error}") from error

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> SearchIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _only(model: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The models of an index of version 0.1, which had one of vectors, or none."""
    return {} if model is None else {DenseRetriever.mode: model}


def known_modes() -> tuple[str, ...]:
    """All ways to search that some index has."""
    return ("hybrid", *SIDES, BM25.mode)
