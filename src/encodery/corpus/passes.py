"""The passes that make a corpus, each a list of datatrove steps that the executor runs.

1. Read: files → rewrite → filter → `clean/` (one file per task).
2. For each deduplication method, its passes over the cleaned documents.
3. Write: cleaned documents → drop duplicates → `train/` and `heldout/`.
"""

from __future__ import annotations

from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from encodery.corpus.exclusion_log import ExclusionLog
from encodery.corpus.pass_steps import ReadCleanStep, SmallestPositionsStep, SplitStep
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.shard_writer import CorpusShardWriter
from encodery.corpus.steps.dedup import Pass
from encodery.corpus.steps.read import ReadContext


def reading_pass(settings: CorpusSettings, work: Path) -> tuple[Pass, list[str]]:
    """Return the pass from files to cleaned documents, and the names of its steps in the report."""
    context = ReadContext(settings.text, settings.encoding, settings.license, work / "tasks", work / "problems")
    steps: list[tuple[str, PipelineStep]] = []
    for name, reader in settings.read.items():
        if name not in settings.skip:
            steps.append((f"read {name}", reader.build(name, context)))
    for name, rewrite in settings.rewrite.items():
        if name not in settings.skip:
            steps.append((f"rewrite {name}", rewrite.build(name)))
    for name, part in settings.filter.items():
        if name not in settings.skip:
            steps.append((f"filter {name}", part.build(ExclusionLog(work / "dropped", f"filter {name}"))))
    steps.append(("clean", CorpusShardWriter(str(work / "clean"), "${rank}")))
    return Pass("read and filter", [step for _, step in steps]), [name for name, _ in steps]


def duplicate_passes(settings: CorpusSettings, work: Path) -> list[Pass]:
    """Return the passes that find duplicates, each over the documents that the methods before it keep."""
    passes: list[Pass] = []
    before: list[str] = []
    for name in active_dedups(settings):
        for one in settings.dedup[name].passes(str(work / "dedup" / name)):
            start = deduplicated_steps(settings, work, before) if one.documents else []
            passes.append(Pass(one.name, [*start, *one.steps], one.documents, one.tasks))
        before.append(name)
    return passes


def deduplicated_steps(
    settings: CorpusSettings, work: Path, dedups: list[str], record: bool = False
) -> list[PipelineStep]:
    """Return steps that yield the cleaned documents of a task without the duplicates that `dedups` found.

    With `record`, the dropped duplicates are counted for the report.
    """
    steps: list[PipelineStep] = [ReadCleanStep(work / "clean")]
    for name in dedups:
        exclusions = ExclusionLog(work / "dropped", f"dedup {name}") if record else None
        steps.append(settings.dedup[name].build(str(work / "dedup" / name), exclusions))
    return steps


def active_dedups(settings: CorpusSettings) -> list[str]:
    """Return the names of the deduplication methods that are not skipped."""
    return [name for name in settings.dedup if name not in settings.skip]


def position_pass(settings: CorpusSettings, work: Path, count: int) -> Pass:
    """Return the pass that collects the smallest `count` + 1 positions of each task, for the held-out threshold."""
    steps = deduplicated_steps(settings, work, active_dedups(settings))
    return Pass("held-out threshold", [*steps, SmallestPositionsStep(work / "positions", count + 1)])


def writing_pass(settings: CorpusSettings, work: Path, out: Path, threshold: float) -> Pass:
    """Return the pass that writes the remaining documents to their splits and tallies them."""
    steps = deduplicated_steps(settings, work, active_dedups(settings), record=True)
    writer = CorpusShardWriter(str(out), "${split}/${rank}")
    return Pass("write", [*steps, SplitStep(threshold, work / "tally"), writer])
