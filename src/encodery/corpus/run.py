"""Build a corpus: list the files, run the passes, write the report. A rerun resumes an interrupted build."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact, atomic_write, create_artifact
from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.base.extras import require
from encodery.base.machine import threads
from encodery.base.settings import encode
from encodery.corpus.engine import EngineName, PassRunner, Progress, exclusive_build
from encodery.corpus.heldout import heldout_count, heldout_threshold
from encodery.corpus.report import CorpusReport, cleaned_count, collect_report
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.sources import FileListing, assign_tasks, list_files, write_tasks

KIND = "corpus"
WORK = "work"
DEDUP_MARGIN = 10  # Deduplication may still shrink the corpus by this factor, so the threshold is checked below it.


@dataclass(frozen=True)
class CorpusBuild:
    """The result of a build. `fresh` is False if the same corpus already existed and nothing was done."""

    artifact: Artifact
    fresh: bool


def build_corpus(
    sources: Iterable[str | Path],
    out: str | Path,
    settings: CorpusSettings | None = None,
    engine: EngineName = "local",
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CorpusBuild:
    """Build a corpus in the folder `out` from all documents in `sources` (folders, globs, files).

    A repeated call resumes an interrupted build.

    Args:
        engine: "local" or "ray".
        workers: the number of processes; None for the number of threads of the machine. It does not affect the result.
        overwrite: whether a corpus of other files or settings in `out` is replaced.
        progress: called with (pass, finished tasks, tasks).

    Raises `EmptyInput` (no documents, or none left), `ArtifactError` (`out` contains a corpus of other files or
    settings), `DiskFull` and `MissingExtra`.
    """
    settings = settings or CorpusSettings()
    for module in ("datatrove", "orjson", "xxhash", "zstandard"):
        require(module, extra="corpus")
    if engine not in ("local", "ray"):
        raise InputError(f"engine = '{engine}': must be 'local' or 'ray'.")
    if engine == "ray":
        require("ray", extra="ray")
    target = Path(out)
    paths = [str(source) for source in sources]
    listing = list_files(paths, settings.suffixes(), avoid=(target, target.parent / f".{target.name}.draft"))
    recipe = {"corpus": encode(settings), "inputs": listing.fingerprint(), "sources": paths}
    if (existing := _existing(target, recipe, overwrite)) is not None:
        return CorpusBuild(existing, fresh=False)
    with create_artifact(target, kind=KIND, settings=recipe, overwrite=overwrite, keep_draft=True) as draft:
        work = draft.path / WORK
        with exclusive_build(work / "logs"):
            _clear_other_work(draft.path, recipe)
            try:
                # datatrove remembers folders by their names, whatever the working directory is by then.
                folder = draft.path.absolute()
                report = _run(settings, listing, folder, engine, workers or threads(), progress)
            except EmptyInput:
                draft.keep_on_error = False
                raise
        draft.metrics.update(report.metrics())
        text = json.dumps(report.table(), indent=1, ensure_ascii=False)
        (draft.path / "report.json").write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(work)
    return CorpusBuild(Artifact.open(target, KIND), fresh=True)


def _existing(target: Path, recipe: dict[str, Any], overwrite: bool) -> Artifact | None:
    """Return the finished corpus at `target` if it was built from the same recipe."""
    if overwrite or not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    artifact = Artifact.open(target, KIND)
    if differing := _differing(artifact.manifest.settings, recipe):
        raise ArtifactError(
            f"{target}: contains a corpus made with other {' and '.join(differing)}. Choose another folder, or "
            "--overwrite."
        )
    return artifact


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return in what two recipes differ. The spelling of the sources does not matter."""
    keys = {"corpus": "settings", "inputs": "input files"}
    return [name for key, name in keys.items() if one.get(key) != other[key]]


def _clear_other_work(draft: Path, recipe: dict[str, Any]) -> None:
    """Keep the work of an interrupted build of the same recipe; delete that of any other."""
    note = draft / WORK / "recipe.json"
    if note.is_file() and not _differing(json.loads(note.read_text(encoding="utf-8")), recipe):
        return
    for path in draft.iterdir():
        if path.name != WORK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (draft / WORK).iterdir():
        if path.name != "logs":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (draft / WORK / "logs").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    atomic_write(note, json.dumps(recipe))


def _run(
    settings: CorpusSettings,
    listing: FileListing,
    draft: Path,
    engine: EngineName,
    workers: int,
    progress: Progress | None,
) -> CorpusReport:
    from encodery.corpus import passes

    work = draft / WORK
    tasks = assign_tasks(listing.files, settings.sliceable_formats())
    write_tasks(work / "tasks", tasks)
    reading, names = passes.reading_pass(settings, work)
    threshold, minimum = settings.heldout, settings.heldout_documents
    with PassRunner(engine, workers, len(tasks), work / "logs", progress) as runner:
        runner.run(reading)
        for one in passes.duplicate_passes(settings, work):
            runner.run(one)
        if threshold and cleaned_count(work, names) * threshold < DEDUP_MARGIN * minimum:
            runner.run(passes.position_pass(settings, work, max(minimum, 1)))
            threshold = _threshold(work / "positions", threshold, minimum)
        runner.run(passes.writing_pass(settings, work, draft, threshold))
    report = collect_report(work, names, listing, passes.active_dedups(settings), threshold)
    if not report.documents:
        raise EmptyInput(f"No document remains of {len(listing.files)} files: {report.why_empty()}")
    return report


def _threshold(folder: Path, fraction: float, minimum: int) -> float:
    """Return the held-out threshold from the positions that the tasks collected."""
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    count = heldout_count(sum(table["documents"] for table in tables), fraction, minimum)
    return fraction if count is None else heldout_threshold([p for t in tables for p in t["positions"]], count)
