"""Builds a corpus: lists the files, runs the passes, writes the report. Rerun, it goes on where it stopped."""

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
SLACK = 10  # Duplicates may still shrink a corpus by so much before its held-out share is small.


@dataclass(frozen=True)
class CorpusBuild:
    """`fresh`: whether anything was done; False where the same corpus was there already."""

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
    """Make a corpus of all documents in `sources` (folders, globs, files) in the folder `out`.

    `workers`: processes at a time, as many as the machine's threads if not given; the result does not depend on it.
    An interrupted build goes on when called again. Raises `EmptyInput` (nothing to read, or nothing left),
    `ArtifactError` (`out` holds a corpus of other files or settings), `DiskFull`, `MissingExtra`.
    """
    settings = settings or CorpusSettings()
    for module in ("datatrove", "orjson", "xxhash", "zstandard"):
        require(module, extra="corpus")
    if engine not in ("local", "ray"):
        raise InputError(f"engine = '{engine}': is 'local' or 'ray'.")
    if engine == "ray":
        require("ray", extra="ray")
    target = Path(out)
    given = [str(source) for source in sources]
    found = list_files(given, settings.suffixes(), avoid=(target, target.parent / f".{target.name}.draft"))
    recipe = {"corpus": encode(settings), "inputs": found.fingerprint(), "sources": given}
    if (present := _present(target, recipe, overwrite)) is not None:
        return CorpusBuild(present, fresh=False)
    with create_artifact(target, kind=KIND, settings=recipe, overwrite=overwrite, keep_draft=True) as draft:
        work = draft.path / WORK
        with exclusive_build(work / "logs"):
            _start(draft.path, recipe)
            try:
                report = _run(settings, found, draft.path, engine, workers or threads(), progress)
            except EmptyInput:
                draft.keep_on_error = False
                raise
        draft.metrics.update(report.metrics())
        text = json.dumps(report.table(), indent=1, ensure_ascii=False)
        (draft.path / "report.json").write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(work)
    return CorpusBuild(Artifact.open(target, KIND), fresh=True)


def _present(target: Path, recipe: dict[str, Any], overwrite: bool) -> Artifact | None:
    """The finished corpus at `target` if it is this very one."""
    if overwrite or not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    artifact = Artifact.open(target, KIND)
    if differing := _differing(artifact.manifest.settings, recipe):
        raise ArtifactError(
            f"{target}: holds a corpus made of other {' and '.join(differing)}. Give another folder, or --overwrite."
        )
    return artifact


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What keeps two recipes from making the same corpus; how its sources were spelled does not matter."""
    what = {"corpus": "settings", "inputs": "input files"}
    return [said for key, said in what.items() if one.get(key) != other[key]]


def _start(draft: Path, recipe: dict[str, Any]) -> None:
    """Keep the work of an interrupted build of the same recipe; clear that of any other."""
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
    found: FileListing,
    draft: Path,
    engine: EngineName,
    workers: int,
    progress: Progress | None,
) -> CorpusReport:
    from encodery.corpus import passes

    work = draft / WORK
    tasks = assign_tasks(found.files, settings.sliceable_formats())
    write_tasks(work / "tasks", tasks)
    reading, names = passes.reading_pass(settings, work)
    below, least = settings.heldout, settings.heldout_documents
    with PassRunner(engine, workers, len(tasks), work / "logs", progress) as runner:
        runner.run(reading)
        for each in passes.duplicate_passes(settings, work):
            runner.run(each)
        if below and cleaned_count(work, names) * below < SLACK * least:
            runner.run(passes.position_pass(settings, work, max(least, 1)))
            below = _threshold(work / "positions", below, least)
        runner.run(passes.writing_pass(settings, work, draft, below))
    report = collect_report(work, names, found, passes.active_dedups(settings), below)
    if not report.documents:
        raise EmptyInput(f"No document is left of {len(found.files)} files: {report.why_empty()}")
    return report


def _threshold(folder: Path, share: float, least: int) -> float:
    """Where the held-out documents end, from what the tasks found."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    count = heldout_count(sum(part["documents"] for part in parts), share, least)
    return share if count is None else heldout_threshold([p for part in parts for p in part["positions"]], count)
