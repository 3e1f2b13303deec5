"""Reads what is recorded about a run, from its folder and from the artifacts that it was made from.

Only a log or a metrics file is required. What is missing is None or empty, and the report shows it as "not recorded".
"""

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
"""Bytes of held-out text on which the tokenizer is measured."""
Line = dict[str, Any]

if TYPE_CHECKING:
    from encodery.tokens.measure import TokenizerMetrics
    from encodery.tokens.unigram_baseline import UnigramBaseline


EVALUATION_FIELDS = frozenset({"step", "tokens", "elapsed", "progress", "heldout_loss", "heldout_accuracy"})
"""Names in a line of an evaluation in log.jsonl, those of an objective aside."""


@dataclass(frozen=True)
class RunFacts:
    """The records of a run.

    `steps` are the lines of the log that have a training loss, `evaluations` those that have a held-out loss, both in
    order of steps. `search` is the content of `search.json`, None if there is none.
    """

    run: Path
    artifact: Artifact | None
    recipe: Line
    steps: list[Line]
    evaluations: list[Line]
    metrics: Line
    lineage: tuple[Ancestor, ...] = ()
    search: Any = None

    @property
    def settings(self) -> Line:
        """The settings of the recipe, or those of the artifact if there is no recipe."""
        settings: Line = self.recipe.get("settings", self.recipe)
        return settings

    def ancestor(self, kind: str) -> Artifact | None:
        """Return the nearest ancestor of a kind that can still be read, or None."""
        return next((a.artifact for a in self.lineage if a.kind == kind and a.artifact is not None), None)

    def metric(self, *names: str) -> float | None:
        """Return the first finite number with one of the names, from the metrics or the last lines of the log."""
        for name in names:
            values = [self.metrics.get(name)]
            values += [line.get(name) for line in reversed(self.evaluations[-1:] + self.steps[-1:])]
            for value in values:
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    return float(value)
        return None

    @property
    def predicts_tokens(self) -> bool:
        """Whether the held-out loss is a cross entropy of tokens, in which bits per byte can be counted."""
        return self.metric("bits_per_byte") is not None

    @property
    def objective_metrics(self) -> dict[str, float]:
        """What else an objective reports about held-out text besides loss and accuracy, by name: its own terms."""
        last = self.evaluations[-1] if self.evaluations and not self.predicts_tokens else {}
        names = [name for name in last if name not in EVALUATION_FIELDS]
        return {name: value for name in names if (value := self.metric(name)) is not None}

    @cached_property
    def corpus_report(self) -> Line:
        """The `report.json` of the corpus; empty if there is none."""
        corpus = self.ancestor("corpus")
        return _read_json(corpus.path / "report.json") if corpus is not None else {}

    @cached_property
    def unigram(self) -> UnigramBaseline | None:
        """The unigram baseline on the token store; None without a store or without held-out text."""
        from encodery.tokens.store import TokenStore
        from encodery.tokens.unigram_baseline import unigram_baseline

        store = self.ancestor("tokens")
        return unigram_baseline(TokenStore.open(store.path)) if store is not None else None

    @cached_property
    def tokenizer_metrics(self) -> TokenizerMetrics | None:
        """The metrics of the tokenizer on held-out text of the corpus; None if the store or the corpus is missing."""
        from encodery.tokens.measure import evaluation_documents, measure
        from encodery.tokens.tokenizer import Tokenizer

        store, corpus = self.ancestor("tokens"), self.ancestor("corpus")
        if store is None or corpus is None:
            return None
        return measure(Tokenizer.load(store.path), evaluation_documents(corpus.path, MEASURED_BYTES), "tokenizer")


def read_run(run: str | Path) -> RunFacts:
    """Return the records of a run folder.

    Raises `InputError` if the folder is missing or has neither a log nor metrics, and `ArtifactError` for a damaged
    file.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name a run folder, such as the --out of `encodery pretrain`.")
    log, metrics_file = folder / "log.jsonl", folder / "metrics.json"
    if not log.is_file() and not metrics_file.is_file():
        seeds = sorted(path.parent.name for path in folder.glob("seed-*/metrics.json"))
        hint = f" It contains runs with several seeds; name one of them: {', '.join(seeds)}." if seeds else ""
        raise InputError(f"{folder}: has neither log.jsonl nor metrics.json, so it is not a run folder.{hint}")
    lines = read_log(log) if log.is_file() else []
    artifact = Artifact.open(folder) if (folder / MANIFEST).is_file() else None
    model = folder / "model" / MANIFEST
    top = artifact or (Artifact.open(folder / "model") if model.is_file() else None)
    manifest_metrics = dict(top.manifest.metrics) if top is not None else {}
    return RunFacts(
        run=folder,
        artifact=artifact,
        recipe=_read_json(folder / "recipe.json") or (dict(artifact.manifest.settings) if artifact else {}),
        steps=[line for line in lines if "loss" in line],
        evaluations=[line for line in lines if "heldout_loss" in line],
        metrics=manifest_metrics | _read_json(metrics_file),
        lineage=tuple(ancestors(top)) if top is not None else (),
        search=_read_json(folder / "search.json") or None,
    )


def _read_json(path: Path) -> Line:
    """Return the object in a JSON file, other values under `values`; empty if there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged: {error}") from error
    return content if isinstance(content, dict) else {"values": content}
