"""Builds an index: documents to passages to vectors and words, in a folder that survives interruption.

The folder is an artifact of kind "index": settings, the models' and the inputs' fingerprints in its manifest,
`finish.safetensors` (what the finish steps learnt from a sample), `fusion.json` (the weights of words and models)
and `store/`, the engine's files, which live on as documents are added and deleted. A build that was interrupted goes
on when it is called again; building the same index a second time does nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from encodery.search.calibrate import FALLBACK, Calibration, calibrate, fixed_weights
from encodery.search.documents import DocumentInput
from encodery.search.engine import SearchEngine
from encodery.search.engine.edge import Edge
from encodery.search.exact_recall import exact_recall
from encodery.search.passage_sources import DocumentSource, PassageSource, comparable_settings, model_records
from encodery.search.passages import Passages
from encodery.search.retrievers import DenseRetriever, MultiVectorRetriever, SparseRetriever, as_retrievers
from encodery.search.store import Fields, Point, Precision, Store
from encodery.search.writer import StoreWriter, postprocess_points

KIND = "index"
STORE, POSTPROCESS, FUSION, PROGRESS = "store", "finish.safetensors", "fusion.json", "progress.json"

Progress = Callable[[int, int], None]
"""Called with the documents and passages taken so far."""


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """`text`: the column of rows that holds the text. `finish`: steps on vectors after the model's own, fitted on a
    sample of the documents. `vectors`: how they are stored. `weight`: share of the models' sides in hybrid ranking,
    estimated from the documents if not given."""

    engine: SearchEngine = field(default_factory=Edge)
    passages: Passages = field(default_factory=Passages)
    postprocess: tuple[PostProcess, ...] = (Normalise(), Whiten(), Normalise())
    vectors: Precision = "fp32"
    weight: float | None = None
    text: str = "auto"

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise SettingsError(f"weight = {self.weight}: is a share between 0 (words) and 1 (vectors).")


@dataclass(frozen=True)
class BuiltIndex:
    """`fresh`: whether anything was done; False where the same index was there already. `skipped`: reason -> number
    of rows, files or documents left out."""

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
    """Index all documents of `sources` (corpora, folders, globs, files) in the folder `out`.

    `encoder`: an encoder of vectors, of learned sparse vectors or of a vector a token, or several of different kinds;
    without one the index is of words alone. `model_path` is noted, so that queries find the model again; of several
    {mode: path}. Raises `EmptyInput` (no documents), `ArtifactError` (`out` holds another index), `DiskFull`,
    `MissingExtra`.
    """
    settings, target = settings or IndexSettings(), Path(out)
    given = DocumentInput.open(sources, settings.text, avoid=(target, target.parent / f".{target.name}.draft"))
    sides = as_retrievers(encoder)
    for side in sides:
        side.check_batch_invariance()
    supply = DocumentSource(sources, given, settings.passages, sides)
    supply.models = model_records(sides, model_path)
    return build_from(supply, target, settings, overwrite, progress)


def build_from(
    source: PassageSource,
    out: str | Path,
    settings: IndexSettings,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuiltIndex:
    """Index what a supply gives; `encoded.Encoded` is one. See `build`."""
    target = Path(out)
    plan = {
        "index": encode(settings),
        "models": source.models,
        "inputs": source.fingerprint,
        "sources": list(source.sources),
    }
    if not overwrite and (present := _present(target, plan)) is not None:
        return BuiltIndex(present, False, {})
    leave = _leaving(target)
    with create_artifact(
        target, KIND, plan, source.parents, overwrite=overwrite, keep_draft=True, mutable_folders=(STORE,)
    ) as draft:
        builder = _Builder(draft.path, plan, source, settings)
        draft.metrics.update(builder.run(progress))
        (draft.path / PROGRESS).unlink()
    leave()
    return BuiltIndex(Artifact.open(target, KIND), True, dict(source.skipped))


def _leaving(target: Path) -> Callable[[], None]:
    """What removes all that an index at `target`, which is to be replaced, keeps elsewhere."""
    if not (target / MANIFEST).is_file():
        return lambda: None
    held = Artifact.open(target, KIND).manifest.settings["index"]
    return decode(IndexSettings, held, where=str(target)).engine.remote_cleanup(target / STORE)


def _present(target: Path, plan: dict[str, Any]) -> Artifact | None:
    """The finished index at `target` if it is this very one."""
    if not (target / MANIFEST).is_file():
        return None
    artifact = Artifact.open(target, KIND)
    held = artifact.manifest.settings
    differing = [name for name in plan if comparable_settings(held.get(name)) != comparable_settings(plan[name])]
    if differing:
        what = {"index": "settings", "inputs": "input files", "models": "model or runtime", "sources": "sources"}
        raise ArtifactError(
            f"{target}: holds an index made with other {' and '.join(what[name] for name in differing)}. "
            "Add documents to it with `search add`, give another folder, or --overwrite."
        )
    return artifact


def stored_bytes(folder: Path) -> int:
    """What the engine's files in an index take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in (folder / STORE).rglob("*") if file.is_file())


class _Builder:
    """One build in a draft folder; `progress.json` says how far an earlier one of the same plan came."""

    def __init__(self, folder: Path, plan: dict[str, Any], supply: PassageSource, settings: IndexSettings) -> None:
        self.folder, self.plan, self.supply, self.settings = folder, plan, supply, settings
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self._resume()

    def _resume(self) -> None:
        note = self.folder / PROGRESS
        held = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        if {name: comparable_settings(held.get("plan", {}).get(name)) for name in self.plan} == {
            name: comparable_settings(value) for name, value in self.plan.items()
        }:
            self.counts.update(held["counts"])
            self.seconds = held["seconds"]
            return
        if "plan" in held:
            decode(IndexSettings, held["plan"]["index"], where=str(note)).engine.remote_cleanup(self.folder / STORE)()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def run(self, progress: Progress | None) -> dict[str, Any]:
        started = time.perf_counter()
        before = self.seconds
        finishing, sample = self._finishing()

        def mark() -> None:
            self.seconds = before + time.perf_counter() - started
            self._note()
            if progress is not None:
                progress(self.counts["documents"], self.counts["passages"])

        with self._store(finishing) as store:
            writer = StoreWriter(store, self.supply.pending_retrievers, finishing, self.counts)
            writer.add(self.supply.documents(self.counts["documents"]), mark, known=self.counts["documents"] > 0)
            if not store.count():
                raise EmptyInput(f"{', '.join(self.plan['sources'])}: no document with words in it.")
            store.compact()
            figures: dict[str, Any] = {"documents": store.documents(), "passages": store.count()}
            if {DenseRetriever.mode, MultiVectorRetriever.mode} & set(self.supply.models):
                figures["vectors"] = self.settings.vectors
            if finishing is not None and self.settings.vectors != "fp32":
                figures["exact_recall"] = exact_recall(store, sample)
        mark()
        chosen = self._weights(finishing, sample)
        atomic_write(self.folder / FUSION, json.dumps(chosen.to_dict(), indent=1))
        counted = {name: self.counts[name] for name in ("tokens", "dropped_tokens", "replaced")}
        size = stored_bytes(self.folder)
        seconds = before + time.perf_counter() - started
        skipped = dict(self.supply.skipped)
        return {
            **figures,
            **counted,
            "weight": chosen.weight,
            "seconds": round(seconds, 2),
            "bytes": size,
            "skipped": skipped,
        }

    def _note(self) -> None:
        table = {"plan": self.plan, "counts": dict(self.counts), "seconds": self.seconds}
        atomic_write(self.folder / PROGRESS, json.dumps(table))

    def _store(self, finishing: PostProcessing | None) -> Store:
        folder = self.folder / STORE
        if self.counts["documents"]:
            return self.settings.engine.open(folder)
        self.settings.engine.remote_cleanup(folder)()  # of a build that ended before it noted anything
        shutil.rmtree(folder, ignore_errors=True)
        return self.settings.engine.create(folder, fields_of(self.supply.models, finishing, self.settings.vectors))

    def _finishing(self) -> tuple[PostProcessing | None, list[Point]]:
        """What the finish steps learn from a sample, and the sample, finished, for the weights."""
        if not self.supply.models:
            return None, []
        sample = self.supply.sample()
        if not sample:
            raise EmptyInput(f"{', '.join(self.plan['sources'])}: no document with words in it.")
        if DenseRetriever.mode not in self.supply.models:
            return None, sample
        file = self.folder / POSTPROCESS
        if self.counts["documents"]:
            finishing = PostProcessing.load(self.settings.postprocess, file)
        else:
            raw = np.stack([point.dense for point in sample if point.dense is not None])
            finishing = PostProcessing.fitted(self.settings.postprocess, raw)
            finishing.save(file)
        return finishing, postprocess_points(sample, finishing)

    def _weights(self, finishing: PostProcessing | None, sample: list[Point]) -> Calibration:
        modes, given = list(self.supply.models), self.settings.weight
        if given is not None or len(self.supply.retrievers) < len(modes) or not modes:
            return fixed_weights(modes, FALLBACK if given is None else given)
        return calibrate(
            sample, [side.with_postprocess(finishing) for side in self.supply.retrievers], self.settings.engine
        )


def fields_of(
    models: Mapping[str, Mapping[str, Any]], finishing: PostProcessing | None, precision: Precision
) -> Fields:
    """What an index with these models, by mode, keeps of a passage."""
    width = None if finishing is None else finishing.output_dim(models[DenseRetriever.mode]["width"])
    tokens = models[MultiVectorRetriever.mode]["width"] if MultiVectorRetriever.mode in models else None
    return Fields(dense_dim=width, sparse=SparseRetriever.mode in models, multi_vector_dim=tokens, precision=precision)
