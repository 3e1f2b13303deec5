"""Builds an index and changes it: documents to passages to vectors and words, in a folder that survives interruption.

The folder is an artifact of kind "index": settings, the model's and the inputs' fingerprints in its manifest,
`finish.safetensors` (what the finish steps learnt from a sample), `fusion.json` (the weight of vectors against words)
and `store/`, the engine's files, which live on as documents are added and deleted. A build that was interrupted goes
on when it is called again; building the same index a second time does nothing.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import MANIFEST, Artifact, atomic_write, writing
from encodery.base.errors import ArtifactError, EmptyInput, SettingsError
from encodery.base.settings import encode
from encodery.embed.finish import Finish
from encodery.embed.finish.normalise import Normalise
from encodery.embed.finish.whiten import Whiten
from encodery.embed.finishing import Finishing
from encodery.search.calibrate import Calibration, calibrated
from encodery.search.documents import Input
from encodery.search.encoder import TextEncoder
from encodery.search.engine import Engine
from encodery.search.engine.edge import Edge
from encodery.search.passages import Passages
from encodery.search.sample import sampled
from encodery.search.store import Point, Store
from encodery.search.writer import Writer

KIND = "index"
STORE, FINISH, FUSION, PROGRESS = "store", "finish.safetensors", "fusion.json", "progress.json"

Progress = Callable[[int, int], None]
"""Called with the documents and passages taken so far."""


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """`text`: the column of rows that holds the text. `finish`: steps on vectors after the model's own, fitted on a
    sample of the documents. `weight`: share of the vectors in hybrid ranking, estimated from the documents if not
    given."""

    engine: Engine = field(default_factory=Edge)
    passages: Passages = field(default_factory=Passages)
    finish: tuple[Finish, ...] = (Normalise(), Whiten(), Normalise())
    weight: float | None = None
    text: str = "auto"

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise SettingsError(f"weight = {self.weight}: is a share between 0 (words) and 1 (vectors).")


@dataclass(frozen=True)
class Built:
    """`fresh`: whether anything was done; False where the same index was there already. `skipped`: reason -> number
    of rows, files or documents left out."""

    artifact: Artifact
    fresh: bool
    skipped: dict[str, int]


def build(
    sources: Sequence[str | Path],
    out: str | Path,
    encoder: TextEncoder | None,
    settings: IndexSettings | None = None,
    model_path: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Index all documents of `sources` (corpora, folders, globs, files) in the folder `out`; without an encoder by
    words alone. `model_path` is noted, so that queries find the model again.

    Raises `EmptyInput` (no documents), `ArtifactError` (`out` holds another index), `DiskFull`, `MissingExtra`.
    """
    settings, target = settings or IndexSettings(), Path(out)
    given = Input.open(sources, settings.text, avoid=(target, target.parent / f".{target.name}.draft"))
    plan = {
        "index": encode(settings),
        "model": _model(encoder, model_path),
        "inputs": given.fingerprint,
        "sources": [str(source) for source in sources],
    }
    if not overwrite and (present := _present(target, plan)) is not None:
        return Built(present, False, {})
    parents = {f"corpus{i or ''}": corpus for i, corpus in enumerate(given.corpora)}
    with writing(target, KIND, plan, parents, overwrite=overwrite, keep=True, living=(STORE,)) as draft:
        builder = _Builder(draft.path, plan, given, encoder, settings)
        draft.figures.update(builder.run(progress))
        (draft.path / PROGRESS).unlink()
    return Built(Artifact.open(target, KIND), True, dict(given.skipped))


def _model(encoder: TextEncoder | None, path: str | Path | None) -> dict[str, Any] | None:
    if encoder is None:
        return None
    where = "" if path is None else str(Path(path).resolve())
    return {"fingerprint": encoder.fingerprint, "width": encoder.width, "path": where}


def _present(target: Path, plan: dict[str, Any]) -> Artifact | None:
    """The finished index at `target` if it is this very one."""
    if not (target / MANIFEST).is_file():
        return None
    artifact = Artifact.open(target, KIND)
    held = artifact.manifest.settings
    differing = [name for name in plan if _essence(held.get(name)) != _essence(plan[name])]
    if differing:
        what = {"index": "settings", "inputs": "input files", "model": "model", "sources": "sources"}
        raise ArtifactError(
            f"{target}: holds an index made with other {' and '.join(what[name] for name in differing)}. "
            "Add documents to it with `search add`, give another folder, or --overwrite."
        )
    return artifact


def _essence(value: Any) -> Any:
    """A plan's value without where the model lies, which may change."""
    return {key: item for key, item in value.items() if key != "path"} if isinstance(value, dict) else value


def stored_bytes(folder: Path) -> int:
    """What the engine's files in an index take on the disk."""
    return sum(file.stat().st_blocks * 512 for file in (folder / STORE).rglob("*") if file.is_file())


class _Builder:
    """One build in a draft folder; `progress.json` says how far an earlier one of the same plan came."""

    def __init__(
        self, folder: Path, plan: dict[str, Any], given: Input, encoder: TextEncoder | None, settings: IndexSettings
    ) -> None:
        self.folder, self.plan, self.given, self.encoder, self.settings = folder, plan, given, encoder, settings
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0
        self._resume()

    def _resume(self) -> None:
        note = self.folder / PROGRESS
        held = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        if {name: _essence(held.get("plan", {}).get(name)) for name in self.plan} == {
            name: _essence(value) for name, value in self.plan.items()
        }:
            self.counts.update(held["counts"])
            self.seconds = held["seconds"]
            return
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def run(self, progress: Progress | None) -> dict[str, Any]:
        started = time.perf_counter()
        before = self.seconds
        finishing, sample, vectors = self._finishing()

        def mark() -> None:
            self.seconds = before + time.perf_counter() - started
            self._note()
            if progress is not None:
                progress(self.counts["documents"], self.counts["passages"])

        with self._store(finishing) as store:
            writer = Writer(store, self.settings.passages, self.encoder, finishing, self.counts)
            self.given.skipped.clear()
            rest = itertools.islice(self.given.documents(), self.counts["documents"], None)
            writer.add(rest, mark, known=self.counts["documents"] > 0)
            if not store.count():
                raise EmptyInput(f"{', '.join(self.plan['sources'])}: no document with words in it.")
            store.settle()
            figures = {"documents": store.documents(), "passages": store.count()}
        mark()
        chosen = self._weight(finishing, sample, vectors)
        atomic_write(self.folder / FUSION, json.dumps(chosen.table(), indent=1))
        counted = {name: self.counts[name] for name in ("tokens", "dropped_tokens", "replaced")}
        size = stored_bytes(self.folder)
        seconds = before + time.perf_counter() - started
        skipped = dict(self.given.skipped)
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

    def _store(self, finishing: Finishing | None) -> Store:
        folder = self.folder / STORE
        if self.counts["documents"]:
            return self.settings.engine.open(folder)
        shutil.rmtree(folder, ignore_errors=True)
        width = None if finishing is None or self.encoder is None else finishing.width(self.encoder.width)
        return self.settings.engine.create(folder, width)

    def _finishing(self) -> tuple[Finishing | None, list[Point], np.ndarray]:
        """What the finish steps learn from a sample; the sample and its finished vectors (P, K), for the weight."""
        if self.encoder is None:
            return None, [], np.zeros((0, 0), np.float32)
        sample = sampled(self.given.documents(), self.settings.passages, self.encoder)
        if not sample:
            raise EmptyInput(f"{', '.join(self.plan['sources'])}: no document with words in it.")
        raw = self.encoder.encode([point.text for point in sample], truncate="right").vectors
        file = self.folder / FINISH
        if self.counts["documents"]:
            finishing = Finishing.load(self.settings.finish, file)
        else:
            finishing = Finishing.fitted(self.settings.finish, raw)
            finishing.save(file)
        return finishing, sample, finishing.apply(raw)

    def _weight(self, finishing: Finishing | None, sample: list[Point], vectors: np.ndarray) -> Calibration:
        if self.settings.weight is not None or self.encoder is None or finishing is None:
            return Calibration(self.settings.weight or 0.0)
        return calibrated(sample, vectors, self.encoder, finishing, self.settings.engine)
