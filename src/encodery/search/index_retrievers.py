"""The retrievers of an index: BM25, and those of its models, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError, UserError
from encodery.search.index import SearchIndex
from encodery.search.load_retrievers import as_retrievers, load_retriever, mode_of
from encodery.search.modes import BM25, DENSE, HYBRID
from encodery.search.retrievers import ModelRetriever, Retriever
from encodery.search.retrievers.bm25 import BM25Retriever
from encodery.search.runtime_provenance import RuntimeProvenance


class IndexRetrievers:
    """The retrievers that fit an index.

    Args:
        encoders: an encoder, a retriever or several of them, in place of the models whose paths the index records.
        models: the folder of a model, or several, where they have moved.
        runtime: what runs a dense model; by default the runtime that made the vectors of the index.

    Raises `ArtifactError` for an encoder other than the one the index was built with, and `InputError` for a runtime
    in an index without dense vectors.
    """

    def __init__(
        self,
        index: SearchIndex,
        encoders: Any = None,
        models: str | Path | Sequence[str | Path] | None = None,
        runtime: str | None = None,
    ) -> None:
        self.index = index
        folders = [models] if isinstance(models, str | Path) else list(models or ())
        self._folders = {mode_of(folder): folder for folder in folders}
        if runtime is not None and DENSE not in index.models:
            raise InputError(f"runtime = '{runtime}': applies to dense models only; {index.path} has none.")
        self._runtime = runtime
        self._loaded: dict[str, ModelRetriever] = {}
        self._warnings: dict[str, str] = {}
        self._bm25 = BM25Retriever()
        for retriever in as_retrievers(encoders):
            self._keep(retriever, "the given encoder")

    def of_mode(self, mode: str) -> Retriever:
        """Return the retriever of one mode. Raises as `model`."""
        return self._bm25 if mode == BM25 else self.model(mode)

    def model(self, mode: str) -> ModelRetriever:
        """Return the retriever of one model.

        Raises `InputError` if the index was built without such a model, and `ArtifactError` if the model is missing, is
        a different one, or its runtime does not work here.
        """
        if mode not in self.index.models:
            modes = ", ".join(name for name in self.index.modes if name != HYBRID)
            raise InputError(
                f"{self.index.path}: was built without a model for '{mode}'; it can be searched by {modes}."
            )
        if mode not in self._loaded:
            folder = self._folders.get(mode, self.index.models[mode]["path"])
            if not str(folder) or not Path(folder).exists():
                raise ArtifactError(
                    f"{self.index.path}: was built with the model at '{folder}', which does not exist. Give its new "
                    "folder with --model, or search by BM25 (--mode bm25)."
                )
            self._keep(self._load(mode, folder), str(folder))
        return self._loaded[mode]

    def models(self) -> tuple[ModelRetriever, ...]:
        """Return the retrievers of all models of the index. Raises as `model`."""
        return tuple(self.model(mode) for mode in self.index.models)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each loaded model that runs in another runtime than the one that made the index's vectors."""
        return tuple(self._warnings.values())

    def _load(self, mode: str, folder: str | Path) -> ModelRetriever:
        """Load a model with the requested runtime, or with the one that made the vectors of the index."""
        if self._runtime is not None or mode != DENSE:
            return load_retriever(folder, self._runtime)
        runtime = self._recorded(mode).runtime_argument
        try:
            return load_retriever(folder, runtime)
        except UserError as error:
            if runtime is None:
                raise
            raise ArtifactError(
                f"{self.index.path}: was built with the runtime '{runtime}', which cannot run here: {error} "
                "Use another one for queries, such as --runtime torch."
            ) from error

    def _recorded(self, mode: str) -> RuntimeProvenance:
        return RuntimeProvenance.read(self.index.models[mode]["runtime"])

    def _keep(self, retriever: ModelRetriever, name: str) -> None:
        """Keep a retriever if the index has a model of its mode, after comparing the fingerprints of the two."""
        if retriever.mode not in self.index.models:
            return
        fingerprint = self.index.models[retriever.mode]["fingerprint"]
        if retriever.fingerprint != fingerprint:
            raise ArtifactError(
                f"{self.index.path}: was built with another model than {name} (fingerprints {fingerprint[:8]} and "
                f"{retriever.fingerprint[:8]}), so their embeddings cannot be compared. Build the index again, or give "
                "the model it was built with."
            )
        self._loaded[retriever.mode] = retriever.with_postprocess(self.index.postprocess)
        recorded = self._recorded(retriever.mode)
        if not recorded.same_vectors(retriever.provenance):
            index_runtime, query_runtime = (
                provenance.name or "an encoder from outside the package"
                for provenance in (recorded, retriever.provenance)
            )
            by = query_runtime if query_runtime != index_runtime else "another export or other settings of it"
            self._warnings[retriever.mode] = (
                f"{self.index.path}: the vectors of the index were made by {index_runtime}, those of the query by "
                f"{by}: they are close, not equal."
            )
