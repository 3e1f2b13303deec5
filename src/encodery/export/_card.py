"""The model card of an export: what the model is, how to use it, what was measured, from which text it came."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact, ancestors
from encodery.base.parts import name_of
from encodery.finetune.imported import CONFIG_KEY, IDENTITY_ACTIVATION, head_kind
from encodery.model.load import LoadedModel
from encodery.model.settings import ModelSettings

MOST_SOURCES = 15
PIPELINES = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
}
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def card(
    loaded: LoadedModel,
    folder: Path,
    config: Mapping[str, Any],
    drifts: Mapping[str, Any],
    *,
    bare: bool,
    title: str | None,
    licence: str | None,
) -> str:
    """The text of README.md, with the hub's front matter. `bare`: what stood on the encoder was left out."""
    settings = loaded.model.settings
    came_from = ancestors(loaded.artifact) if loaded.artifact is not None else ()
    lineage = [ancestor.artifact for ancestor in came_from if ancestor.artifact is not None]
    sections = [
        _front_matter(settings, config, licence),
        f"# {title or folder.name}\n\n{_what(loaded)}{_left_out(loaded) if bare else ''}",
        _use(settings, loaded, config),
        _figures(loaded.artifact, lineage),
        _data(lineage),
        _recipe(loaded.settings.get("recipe")),
        _licence(licence),
        _made(loaded, lineage, drifts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(settings: ModelSettings, config: Mapping[str, Any], licence: str | None) -> str:
    lines = ["---", "library_name: transformers"]
    kind = head_kind(config)
    usual = "fill-mask" if settings.head is not None else "feature-extraction"
    lines.append(f"pipeline_tag: {usual if kind is None else PIPELINES[kind]}")
    if licence is not None and SPDX.fullmatch(licence):
        lines.append(f"license: {licence.lower()}")
    return "\n".join([*lines, "tags:", "- encodery", "- encoder", "---"])


def _what(loaded: LoadedModel) -> str:
    settings = loaded.model.settings
    shape = settings.shape
    size = sum(p.numel() for p in loaded.model.parameters())
    windows = [settings.mask.window(layer, shape.depth) for layer in range(shape.depth)]
    local = [w for w in windows if w is not None]
    reach = f", {len(local)} of them local within {local[0]} tokens to either side" if local else ""
    parts = ", ".join(
        f"{field} `{name_of(getattr(settings, field))}`" for field in ("positions", "ffn", "norm", "block")
    )
    return (
        f"A bidirectional text encoder with {size:,} parameters: {shape.depth} layers{reach}, width {shape.width}, "
        f"{shape.heads} heads, feed-forward width {shape.intermediate_size}, up to {shape.max_length} tokens "
        f"({parts}). Made with encodery."
    )


def _left_out(loaded: LoadedModel) -> str:
    task = loaded.settings.get("task")
    was = f" It was fine-tuned for the task `{task['is']}`, whose head is not here." if task else ""
    return f"{was} This is the encoder alone: it gives hidden states, and whatever is put on it has to be trained."


def _use(settings: ModelSettings, loaded: LoadedModel, config: Mapping[str, Any]) -> str:
    head = head_kind(config) or ("MaskedLM" if settings.head is not None else None)
    kind = f"AutoModelFor{head}" if head else "AutoModel"
    notes = ["It loads with the library's own classes; no remote code is needed."]
    pooled = loaded.origin is not None and any("pooler." in name for name in loaded.origin.extra_tensors)
    if config.get("model_type") != "modernbert" and not pooled and head_kind(config) is None:
        notes.append("`pooler_output` was not trained here: for sentence vectors take the mean of the hidden states.")
    if loaded.tokenizer_path is not None and (used := loaded.tokenizer.used_size) < settings.vocab_size:
        notes.append(
            f"The vocabulary has {used:,} entries; the tables hold {settings.vocab_size:,} rows, a round number. "
            f"The ids from {used} up stand for nothing and were never trained."
        )
    notes += _of_head(config)
    embed = loaded.settings.get("dense")
    if embed:
        notes.append(f"Embedding settings: `{json.dumps(embed, ensure_ascii=False)}`.")
    lines = ["## Use", "", "```python", f"from transformers import {kind}, AutoTokenizer", ""]
    lines += ['tokenizer = AutoTokenizer.from_pretrained("PATH")', f'model = {kind}.from_pretrained("PATH")', "```", ""]
    return "\n".join(lines + [f"- {note}" for note in notes])


def _of_head(config: Mapping[str, Any]) -> list[str]:
    """What is to be known of a task's head that was put into a stock class."""
    told, kind = config.get(CONFIG_KEY), head_kind(config)
    if not isinstance(told, dict) or kind is None:
        return []
    task = told["task"]["is"]
    notes = [f"Fine-tuned for the task `{task}`; `encodery predict ROWS --model PATH` gives the same answers."]
    if task == "tag":
        notes.append('A word\'s tag is that of its first piece: `aggregation_strategy="first"` in a pipeline.')
    if task == "regress":
        notes.append("The output is the score itself.")
    if "threshold" in told["tuned"]:
        what = {"multilabel": "A label is given from this probability on", "span": "There is no answer where saying so"}
        more = " scores higher than the best span by more than this" if task == "span" else ""
        notes.append(f"{what.get(task, 'Threshold')}{more}: {told['tuned']['threshold']:.4g}.")
    if config.get("classifier_activation") == IDENTITY_ACTIVATION:
        notes.append("The head's first layers let the states through as they come; the classifier alone was trained.")
    return notes


def _figures(artifact: Artifact | None, lineage: list[Artifact]) -> str:
    own = {} if artifact is None else artifact.manifest.metrics
    beside = {} if artifact is None else _json(artifact.path.parent / "metrics.json")
    rows = {k: v for k, v in {**beside, **own}.items() if isinstance(v, str | int | float)}
    if not rows:
        return ""
    return "\n".join(
        ["## Figures", "", "| figure | value |", "|---|---|", *(f"| {k} | {_plain(v)} |" for k, v in rows.items())]
    )


def _data(lineage: list[Artifact]) -> str:
    found = ["## Training data"]
    corpora = [a for a in lineage if a.manifest.kind == "corpus"]
    for corpus in corpora:
        report = _json(corpus.path / "report.json")
        rows = {k: v for k, v in corpus.manifest.metrics.items() if isinstance(v, str | int | float)}
        amounts = ", ".join(f"{_plain(value)} {key.replace('_', ' ')}" for key, value in rows.items())
        found.append(f"A corpus of {amounts}.")
        for heading in ("licenses", "sources"):
            found.append(_shares(heading, report.get(heading) or {}))
    if not corpora:
        found.append(
            "The text it was trained on is not recorded beside the model; ask whoever trained it before relying on it."
        )
    found.append(
        "A model of this kind repeats the views and the mistakes of its text, and can reveal pieces of it. "
        "It was not checked for either."
    )
    return "\n\n".join(part for part in found if part)


def _recipe(recipe: Any) -> str:
    if not recipe:
        return ""
    text = json.dumps(recipe, indent=1, ensure_ascii=False, default=str)
    fold = "<details><summary>All settings it was trained with</summary>"
    return f"## Recipe\n\n{fold}\n\n```json\n{text}\n```\n\n</details>"


def _shares(heading: str, table: Mapping[str, Any]) -> str:
    if not table:
        return ""
    rows = [f"| {name} | {entry['documents']:,} | {entry['bytes']:,} |" for name, entry in table.items()]
    more = [f"| and {len(rows) - MOST_SOURCES} more | | |"] if len(rows) > MOST_SOURCES else []
    top = f"| {heading} | documents | bytes |"
    return "\n".join([top, "|---|---|---|", *rows[:MOST_SOURCES], *more])


def _licence(licence: str | None) -> str:
    told = f"`{licence}`." if licence else "Not stated. The licences of the training text above may bind its use."
    return f"## Licence\n\n{told}"


def _made(loaded: LoadedModel, lineage: list[Artifact], drifts: Mapping[str, Any]) -> str:
    lines = ["## How it was made", ""]
    for artifact in ([loaded.artifact] if loaded.artifact is not None else []) + lineage:
        lines.append(f"- {artifact.manifest.kind} `{artifact.manifest.fingerprint}`, {artifact.manifest.created}")
    if loaded.origin is not None:
        lines.append(f"- imported from the {loaded.origin.format} layout")
    measured = ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in drifts.items())
    lines.append(f"- checked when it was written: {measured}; `golden.safetensors` holds what it must compute")
    return "\n".join(lines)


def _plain(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = json.loads(path.read_text(encoding="utf-8"))
    return table if isinstance(table, dict) else {}
