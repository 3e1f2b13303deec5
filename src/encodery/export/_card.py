"""The model card of an export: what the model is, how to use it, what was measured, what it was trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact, ancestors
from encodery.base.parts import name_of
from encodery.export._heads import auto_class
from encodery.finetune.imported import CONFIG_KEY, IDENTITY_ACTIVATION, head_kind
from encodery.model.formats import CheckpointFormat
from encodery.model.load import LoadedModel
from encodery.model.settings import ModelSettings

MAX_SOURCES = 15
PIPELINES = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
}
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True)
class CardTexts:
    """What the user decides about a card: its title (None: the folder's name) and the licence (None: not stated)."""

    title: str | None = None
    licence: str | None = None


def model_card(
    loaded: LoadedModel,
    folder: Path,
    checkpoint_format: CheckpointFormat,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    bare: bool,
    texts: CardTexts,
) -> str:
    """Return the text of README.md, with the hub's front matter.

    Args:
        loaded: The exported model.
        folder: Where the export will be.
        checkpoint_format: The format of the export.
        config: Its config.json.
        metrics: What was measured when it was written.
        bare: Whether a head of the model was left out.
        texts: Title and licence.
    """
    settings = loaded.model.settings
    origins = ancestors(loaded.artifact) if loaded.artifact is not None else ()
    lineage = [ancestor.artifact for ancestor in origins if ancestor.artifact is not None]
    sections = [
        _front_matter(settings, config, texts.licence),
        f"# {texts.title or folder.name}\n\n{_description(loaded)}{_missing_head(loaded) if bare else ''}",
        _usage(loaded, checkpoint_format, config),
        _metrics(loaded.artifact),
        _training_data(lineage),
        _recipe(loaded.settings.get("recipe")),
        _licence(texts.licence),
        _provenance(loaded, lineage, metrics),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(settings: ModelSettings, config: Mapping[str, Any], licence: str | None) -> str:
    lines = ["---", "library_name: transformers"]
    kind = head_kind(config)
    without_task = "fill-mask" if settings.head is not None else "feature-extraction"
    lines.append(f"pipeline_tag: {without_task if kind is None else PIPELINES[kind]}")
    if licence is not None and SPDX.fullmatch(licence):
        lines.append(f"license: {licence.lower()}")
    return "\n".join([*lines, "tags:", "- encodery", "- encoder", "---"])


def _description(loaded: LoadedModel) -> str:
    settings = loaded.model.settings
    shape = settings.shape
    size = sum(p.numel() for p in loaded.model.parameters())
    reaches = [settings.mask.reach(layer, shape.depth) for layer in range(shape.depth)]
    local = [reach.left for reach in reaches if reach.is_window and reach.left is not None]
    attention = f", {len(local)} of them with local attention to {local[0]} tokens on each side" if local else ""
    heads = _range([own.heads for own in settings.layer_shapes])
    inner = _range([own.intermediate_size for own in settings.layer_shapes])
    parts = ", ".join(
        f"{field} `{name_of(getattr(settings, field))}`" for field in ("positions", "ffn", "norm", "block")
    )
    return (
        f"A bidirectional text encoder with {size:,} parameters: {shape.depth} layers{attention}, width {shape.width}, "
        f"{heads} heads, intermediate size {inner}, up to {shape.max_length} tokens "
        f"({parts}). Made with encodery."
    )


def _range(sizes: Sequence[int]) -> str:
    """One number if all are equal, otherwise the smallest and the largest."""
    low, high = min(sizes, default=0), max(sizes, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _missing_head(loaded: LoadedModel) -> str:
    task = loaded.settings.get("task")
    tuned = f" It was fine-tuned for the task `{task['is']}`, but this export has no head for it." if task else ""
    return f"{tuned} This is the encoder alone: it returns hidden states, and a head for any task must be trained."


def _usage(loaded: LoadedModel, checkpoint_format: CheckpointFormat, config: Mapping[str, Any]) -> str:
    settings, kind = loaded.model.settings, head_kind(config)
    head_class = checkpoint_format.stock_classes[settings.head_name] if kind is None else f"For{kind}"
    name = auto_class(head_class)
    notes = ["It loads with the library's own classes; no remote code is needed."]
    if kind is None and checkpoint_format.pooler is not None and not _has_pooler(loaded, checkpoint_format, config):
        notes.append("`pooler_output` was not trained: for sentence embeddings use the mean of the hidden states.")
    if loaded.tokenizer_path is not None and (used := loaded.tokenizer.used_size) < settings.vocab_size:
        notes.append(
            f"The vocabulary has {used:,} entries, and the embeddings have {settings.vocab_size:,} rows, a round "
            f"number. The ids from {used} on are unused and were never trained."
        )
    notes += _head_notes(config)
    dense = loaded.settings.get("dense")
    if dense:
        notes.append(f"Embedding settings: `{json.dumps(dense, ensure_ascii=False)}`.")
    lines = ["## Usage", "", "```python", f"from transformers import {name}, AutoTokenizer", ""]
    lines += ['tokenizer = AutoTokenizer.from_pretrained("PATH")', f'model = {name}.from_pretrained("PATH")']
    return "\n".join([*lines, "```", "", *(f"- {note}" for note in notes)])


def _has_pooler(loaded: LoadedModel, checkpoint_format: CheckpointFormat, config: Mapping[str, Any]) -> bool:
    """Whether the dense layer of the pooler belongs to a head of the model, or was imported with it."""
    names = [
        name for theirs in checkpoint_format.tensor_names(config, loaded.model.settings).values() for name in theirs
    ]
    names += [] if loaded.origin is None else loaded.origin.extra_tensors
    return any(f"{checkpoint_format.pooler}." in name for name in names)


def _head_notes(config: Mapping[str, Any]) -> list[str]:
    """Notes on a task's head in a stock class."""
    exported, kind = config.get(CONFIG_KEY), head_kind(config)
    if not isinstance(exported, dict) or kind is None:
        return []
    task = exported["task"]["is"]
    notes = [f"Fine-tuned for the task `{task}`; `encodery predict FILE --model PATH` gives the same predictions."]
    if task == "tag":
        notes.append('A word\'s tag is that of its first token: `aggregation_strategy="first"` in a pipeline.')
    if task == "regress":
        notes.append("The output is the score itself.")
    threshold = exported["calibration"].get("threshold")
    if threshold is not None and task == "span":
        notes.append(
            'There is no answer if the score of "no answer" exceeds that of the best span by more than '
            f"{threshold:.4g}."
        )
    elif threshold is not None:
        notes.append(f"A label is predicted from this probability on: {threshold:.4g}.")
    if config.get("classifier_activation") == IDENTITY_ACTIVATION:
        notes.append("The first layers of the head are the identity; only the classifier was trained.")
    return notes


def _metrics(artifact: Artifact | None) -> str:
    own = {} if artifact is None else artifact.manifest.metrics
    of_run = {} if artifact is None else _read_table(artifact.path.parent / "metrics.json")
    values = {k: v for k, v in {**of_run, **own}.items() if isinstance(v, str | int | float)}
    if not values:
        return ""
    lines = [f"| {name} | {_format(value)} |" for name, value in values.items()]
    return "\n".join(["## Metrics", "", "| metric | value |", "|---|---|", *lines])


def _training_data(lineage: list[Artifact]) -> str:
    sections = ["## Training data"]
    corpora = [artifact for artifact in lineage if artifact.manifest.kind == "corpus"]
    for corpus in corpora:
        report = _read_table(corpus.path / "report.json")
        values = {k: v for k, v in corpus.manifest.metrics.items() if isinstance(v, str | int | float)}
        amounts = ", ".join(f"{_format(value)} {name.replace('_', ' ')}" for name, value in values.items())
        sections.append(f"A corpus of {amounts}.")
        for heading in ("licenses", "sources"):
            sections.append(_documents_by(heading, report.get(heading) or {}))
    if not corpora:
        sections.append(
            "The text that it was trained on is not recorded with the model; ask those who trained it before you rely "
            "on it."
        )
    sections.append(
        "A model of this kind reproduces the views and the errors of its training text, and can reveal parts of it. "
        "It was not tested for either."
    )
    return "\n\n".join(section for section in sections if section)


def _recipe(recipe: Any) -> str:
    if not recipe:
        return ""
    text = json.dumps(recipe, indent=1, ensure_ascii=False, default=str)
    summary = "<details><summary>All settings of the training run</summary>"
    return f"## Recipe\n\n{summary}\n\n```json\n{text}\n```\n\n</details>"


def _documents_by(heading: str, table: Mapping[str, Any]) -> str:
    if not table:
        return ""
    lines = [f"| {name} | {entry['documents']:,} | {entry['bytes']:,} |" for name, entry in table.items()]
    more = [f"| and {len(lines) - MAX_SOURCES} more | | |"] if len(lines) > MAX_SOURCES else []
    return "\n".join([f"| {heading} | documents | bytes |", "|---|---|---|", *lines[:MAX_SOURCES], *more])


def _licence(licence: str | None) -> str:
    text = f"`{licence}`." if licence else "Not stated. The licences of the training text may restrict its use."
    return f"## Licence\n\n{text}"


def _provenance(loaded: LoadedModel, lineage: list[Artifact], metrics: Mapping[str, Any]) -> str:
    lines = ["## Provenance", ""]
    for artifact in ([loaded.artifact] if loaded.artifact is not None else []) + lineage:
        lines.append(f"- {artifact.manifest.kind} `{artifact.manifest.fingerprint}`, {artifact.manifest.created}")
    if loaded.origin is not None:
        lines.append(f"- imported from the checkpoint format `{loaded.origin.format}`")
    measured = ", ".join(f"{name.replace('_', ' ')} {_format(value)}" for name, value in metrics.items())
    lines.append(f"- verified when it was written: {measured}; `golden.safetensors` has the outputs that it must give")
    return "\n".join(lines)


def _format(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _read_table(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if there is none."""
    if not path.is_file():
        return {}
    table = json.loads(path.read_text(encoding="utf-8"))
    return table if isinstance(table, dict) else {}
