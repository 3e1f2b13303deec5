"""Builds an index: documents to passages to embeddings, in a folder that survives interruption.

The folder is an artifact of kind "index": settings and the fingerprints of the models and inputs in its manifest,
`postprocess.safetensors` (what the post-processing fitted on a sample), `fusion.json` (the weights of hybrid ranking)
and `store/`, the engine's files, which change as documents are added and deleted. A build that was interrupted
continues when it is called again; building the same index a second time does nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import MANIFEST, Artifact, atomic_write, create_artifact
from encodery.base.errors import ArtifactError, EmptyInput, SettingsError
from encodery.base.settings import decode, encode
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.postprocessing import PostProcessing
from encodery.search.calibrate import DEFAULT_WEIGHT, Calibration, calibrate, fixed_weights
from encodery.search.documents import DocumentInput
from encodery.search.engine import SearchEngine
from encodery.search.engine.edge import Edge
from encodery.search.exact_recall import exact_recall
from encodery.search.load_retrievers import as_retrievers
from encodery.search.modes import DENSE, MULTI_VECTOR, SPARSE
from encodery.search.passage_sources import DocumentSource, PassageSource, comparable_settings, model_records
from encodery.search.passages import Passages
from encodery.search.store import Fields, Point, Precision, Store
from encodery.search.writer import StoreWriter, postprocess_points

KIND = "index"
STORE, POSTPROCESS, FUSION, PROGRESS = "store", "postprocess.safetensors", "fusion.json", "progress.json"

LANGUAGE_DOCUMENTS = 200
"""The number of documents, from the first on, in which the language of an index is found."""

Progress = Callable[[int, int], None]
"""Called with the numbers of documents and passages done so far."""


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How an index is built.

    Args:
        engine: stores and finds the passages.
        passages: how documents are divided.
        postprocess: steps on dense vectors after the model's own, fitted on a sample of the documents.
        vectors: how vectors are stored: fp32, fp16, int8 or binary.
        weight: of all models together against BM25 in hybrid ranking; None estimates it from the documents.
        text: the column of tables that holds the text.
    """

    engine: SearchEngine = field(default_factory=Edge)
    passages: Passages = field(default_factory=Passages)
    postprocess: tuple[PostProcess, ...] = (Normalise(), Whiten(), Normalise())
    vectors: Precision = "fp32"
    weight: float | None = None
    text: str = "auto"

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise SettingsError(f"weight = {self.weight}: must be between 0 (BM25 only) and 1 (models only).")


@dataclass(frozen=True)
class BuiltIndex:
    """`is_new`: False if the same index existed already and nothing was done. `skipped`: reason -> number of rows,
    files or documents left out."""

    artifact: Artifact
    is_new: bool
    skipped: dict[str, int]


def build(
    sources: Sequence[str | Path],
    out: str | Path,
    encoder: Any,
    settings: IndexSettings | None = None,
    model_path: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuiltIndex:
    """Build an index of all documents of `sources`: corpora, folders, globs and files.

    Args:
        encoder: a text encoder, or several of different kinds; None builds an index for BM25 only.
        model_path: the folder of the model, so that queries find it again; for several models mode -> folder.

    Raises `EmptyInput` if there are no documents, `ArtifactError` if `out` holds another index, `DiskFull` and
    `MissingExtra`.
    """
    settings, target = settings or IndexSettings(), Path(out)
    documents = DocumentInput.open(sources, settings.text, avoid=(target, target.parent / f".{target.name}.draft"))
    retrievers = as_retrievers(encoder)
    for retriever in retrievers:
        retriever.check_batch_invariance()
    source = DocumentSource(sources, documents, settings.passages, retrievers)
    source.models = model_records(retrievers, model_path)
    return build_from(source, target, settings, overwrite, progress)


def build_from(
    source: PassageSource,
    out: str | Path,
    settings: IndexSettings,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuiltIndex:
    """Build an index of the passages of a source; see `build`."""
    target = Path(out)
    settings = replace(settings, engine=settings.engine.for_texts(source.first_texts(LANGUAGE_DOCUMENTS)))
    plan = {
        "index": encode(settings),
        "models": source.models,
        "inputs": source.fingerprint,
        "sources": list(source.sources),
    }
    if not overwrite and (existing := _existing(target, plan)) is not None:
        return BuiltIndex(existing, False, {})
    remove_remote = _remote_cleanup(target)
    with create_artifact(
        target, KIND, plan, source.parents, overwrite=overwrite, keep_draft=True, mutable_folders=(STORE,)
    ) as draft:
        builder = _Builder(draft.path, plan, source, settings)
        draft.metrics.update(builder.run(progress))
        (draft.path / PROGRESS).unlink()
    remove_remote()
    return BuiltIndex(Artifact.open(target, KIND), True, dict(source.skipped))


def _remote_cleanup(target: Path) -> Callable[[], None]:
    """What removes all that an index at `target`, which is to be replaced, keeps outside its folder."""
    if not (target / MANIFEST).is_file():
        return lambda: None
    stored = Artifact.open(target, KIND).manifest.settings["index"]
    return decode(IndexSettings, stored, where=str(target)).engine.remote_cleanup(target / STORE)


def _existing(target: Path, plan: dict[str, Any]) -> Artifact | None:
    """The finished index at `target` if it was built by the same plan. Raises `ArtifactError` for any other one."""
    if not (target / MANIFEST).is_file():
        return None
    artifact = Artifact.open(target, KIND)
    stored = artifact.manifest.settings
    different = [name for name in plan if comparable_settings(stored.get(name)) != comparable_settings(plan[name])]
    if different:
        names = {"index": "settings", "inputs": "input files", "models": "model or runtime", "sources": "sources"}
        raise ArtifactError(
            f"{target}: holds an index built with other {' and '.join(names[name] for name in different)}. "
            "Add documents to it with `search add`, give another folder, or --overwrite."
        )
    return artifact


def stored_bytes(folder: Path) -> int:
    """Return the disk space of the engine's files in an index."""
    return sum(file.stat().st_blocks * 512 for file in (folder / STORE).rglob("*") if file.is_file())


class _Builder:
    """One build in a draft folder; `progress.json` says how far an earlier build of the same plan came."""

    def __init__(self, folder: Path, plan: dict[str, Any], source: PassageSource, settings: IndexSettings) -> None:
        self.folder, self.plan, self.source, self.settings = folder, plan, source, settings
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self._resume()

    def _resume(self) -> None:
        """Continue an earlier build of the same plan, or empty the folder."""
        file = self.folder / PROGRESS
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if {name: comparable_settings(stored.get("plan", {}).get(name)) for name in self.plan} == {
            name: comparable_settings(value) for name, value in self.plan.items()
        }:
            self.counts.update(stored["counts"])
            self.seconds = stored["seconds"]
            return
        if "plan" in stored:
            decode(IndexSettings, stored["plan"]["index"], where=str(file)).engine.remote_cleanup(self.folder / STORE)()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def run(self, progress: Progress | None) -> dict[str, Any]:
        """Build the index; return its metrics."""
        started = time.perf_counter()
        before = self.seconds
        postprocess, sample = self._postprocess()

        def on_stored() -> None:
            self.seconds = before + time.perf_counter() - started
            self._save_progress()
            if progress is not None:
                progress(self.counts["documents"], self.counts["passages"])

        with self._store(postprocess) as store:
            writer = StoreWriter(store, self.source.pending_retrievers, postprocess, self.counts)
            done = self.counts["documents"]
            writer.add(self.source.documents(done), on_stored, may_exist=done > 0)
            if not store.count():
                raise self._empty()
            store.compact()
            metrics: dict[str, Any] = {"documents": store.documents(), "passages": store.count()}
            if {DENSE, MULTI_VECTOR} & set(self.source.models):
                metrics["vectors"] = self.settings.vectors
            if postprocess is not None and self.settings.vectors != "fp32":
                metrics["exact_recall"] = exact_recall(store, sample)
        on_stored()
        calibration = self._weights(postprocess, sample)
        atomic_write(self.folder / FUSION, json.dumps(calibration.to_dict(), indent=1))
        size = stored_bytes(self.folder)
        return {
            **metrics,
            **{name: self.counts[name] for name in ("tokens", "dropped_tokens", "replaced")},
            "language": encode(self.settings.engine).get("language"),
            "weight": calibration.weight,
            "seconds": round(before + time.perf_counter() - started, 2),
            "bytes": size,
            "skipped": dict(self.source.skipped),
        }

    def _save_progress(self) -> None:
        table = {"plan": self.plan, "counts": dict(self.counts), "seconds": self.seconds}
        atomic_write(self.folder / PROGRESS, json.dumps(table))

    def _store(self, postprocess: PostProcessing | None) -> Store:
        folder = self.folder / STORE
        if self.counts["documents"]:
            return self.settings.engine.open(folder)
        self.settings.engine.remote_cleanup(folder)()  # of a build that ended before it saved any progress
        shutil.rmtree(folder, ignore_errors=True)
        return self.settings.engine.create(folder, fields_of(self.source.models, postprocess, self.settings.vectors))

    def _postprocess(self) -> tuple[PostProcessing | None, list[Point]]:
        """The steps fitted on a sample, and the sample after these steps, from which the weights are estimated."""
        if not self.source.models:
            return None, []
        sample = self.source.sample()
        if not sample:
            raise self._empty()
        if DENSE not in self.source.models:
            return None, sample
        file = self.folder / POSTPROCESS
        if self.counts["documents"]:
            postprocess = PostProcessing.load(self.settings.postprocess, file)
        else:
            vectors = np.stack([point.dense for point in sample if point.dense is not None])
            postprocess = PostProcessing.fitted(self.settings.postprocess, vectors)
            postprocess.save(file)
        return postprocess, postprocess_points(sample, postprocess)

    def _weights(self, postprocess: PostProcessing | None, sample: list[Point]) -> Calibration:
        modes, weight, retrievers = list(self.source.models), self.settings.weight, self.source.retrievers
        if weight is not None or len(retrievers) < len(modes) or not modes:
            return fixed_weights(modes, DEFAULT_WEIGHT if weight is None else weight)
        own = [retriever.with_postprocess(postprocess) for retriever in retrievers]
        return calibrate(sample, own, self.settings.engine)

    def _empty(self) -> EmptyInput:
        return EmptyInput(f"{', '.join(self.plan['sources'])}: no document contains a word.")


def fields_of(
    models: Mapping[str, Mapping[str, Any]], postprocess: PostProcessing | None, precision: Precision
) -> Fields:
    """Return what an index with these models, by mode, stores of a passage."""
    dense_dim = None if postprocess is None else postprocess.output_dim(models[DENSE]["dim"])
    multi_vector_dim = models[MULTI_VECTOR]["dim"] if MULTI_VECTOR in models else None
    return Fields(dense_dim=dense_dim, sparse=SPARSE in models, multi_vector_dim=multi_vector_dim, precision=precision)
