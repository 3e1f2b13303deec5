"""What is known of a run, read from its folder and from the artifacts it came from. Nothing is required but a log
or figures: what is missing is None or empty, and the page says "not recorded"."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encodery.base.artifact import MANIFEST, Ancestor, Artifact, ancestors
from encodery.base.errors import ArtifactError, InputError
from encodery.base.run_log import read_log

MEASURED_BYTES = 2_000_000
Line = dict[str, Any]

if TYPE_CHECKING:
    from encodery.tokens.measure import TokenizerMetrics
    from encodery.tokens.unigram_baseline import UnigramBaseline


@dataclass(frozen=True)
class RunFacts:
    """A run. `steps` are the log's lines with a loss, `scores` those with a held-out loss, in order."""

    run: Path
    artifact: Artifact | None
    recipe: Line
    steps: list[Line]
    scores: list[Line]
    metrics: Line
    lineage: tuple[Ancestor, ...] = ()
    search: Any = None

    @property
    def settings(self) -> Line:
        """The settings of the recipe; those of the artifact if there is none."""
        settings: Line = self.recipe.get("settings", self.recipe)
        return settings

    def ancestor(self, kind: str) -> Artifact | None:
        """The nearest artifact of a kind among those the run came from, where it can still be read."""
        return next((a.artifact for a in self.lineage if a.kind == kind and a.artifact is not None), None)

    def metric(self, *names: str) -> float | None:
        """The first finite number of any of these names: of the figures, else of the last line that has it."""
        for name in names:
            values = [self.metrics.get(name)]
            values += [line.get(name) for line in reversed(self.scores[-1:] + self.steps[-1:])]
            for value in values:
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    return float(value)
        return None

    @cached_property
    def corpus_report(self) -> Line:
        """`report.json` of the corpus, or nothing."""
        corpus = self.ancestor("corpus")
        return _json(corpus.path / "report.json") if corpus is not None else {}

    @cached_property
    def unigram(self) -> UnigramBaseline | None:
        """The figures of guessing by frequency, from the token store; None without one or without held-out text."""
        from encodery.tokens.store import TokenStore
        from encodery.tokens.unigram_baseline import unigram_baseline

        store = self.ancestor("tokens")
        return unigram_baseline(TokenStore.open(store.path)) if store is not None else None

    @cached_property
    def tokenizer_metrics(self) -> TokenizerMetrics | None:
        """How well the store's tokenizer fits the corpus's held-out text; None where either is gone."""
        from encodery.tokens.measure import evaluation_documents, measure
        from encodery.tokens.tokenizer import Tokenizer

        store, corpus = self.ancestor("tokens"), self.ancestor("corpus")
        if store is None or corpus is None:
            return None
        return measure(Tokenizer.load(store.path), evaluation_documents(corpus.path, MEASURED_BYTES), "tokenizer")


def read_run(run: str | Path) -> RunFacts:
    """Everything there is to say of a run folder.

    Raises `InputError` if the folder holds neither a log nor figures of a run.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a run is needed, as `encodery pretrain` writes it.")
    log, figures = folder / "log.jsonl", folder / "metrics.json"
    if not log.is_file() and not figures.is_file():
        seeds = sorted(path.parent.name for path in folder.glob("seed-*/metrics.json"))
        said = f" It holds runs of several seeds; give one: {', '.join(seeds)}." if seeds else ""
        raise InputError(f"{folder}: has neither log.jsonl nor metrics.json, so it is no run.{said}")
    lines = read_log(log) if log.is_file() else []
    artifact = Artifact.open(folder) if (folder / MANIFEST).is_file() else None
    model = folder / "model" / MANIFEST
    top = artifact or (Artifact.open(folder / "model") if model.is_file() else None)
    known = dict(top.manifest.metrics) if top is not None else {}
    return RunFacts(
        run=folder,
        artifact=artifact,
        recipe=_json(folder / "recipe.json") or (dict(artifact.manifest.settings) if artifact else {}),
        steps=[line for line in lines if "loss" in line],
        scores=[line for line in lines if "heldout_loss" in line],
        metrics=known | _json(figures),
        lineage=tuple(ancestors(top)) if top is not None else (),
        search=_json(folder / "search.json") or None,
    )


def _json(path: Path) -> Line:
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged: {error}") from error
    return table if isinstance(table, dict) else {"values": table}
