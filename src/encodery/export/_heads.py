"""Heads of fine-tuned models on their way out: in the stock class that computes them, refused where there is none.

The reading side is `finetune/imported.py`. What a stock class has no place for is folded into the last linear map: its
rate, a temperature, the mean and spread of scores; thresholds, lengths and the task are told in config.json under
`stock.KEY`, which stock classes pass over.
Shapes: B golden sequences, T their tokens, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.finetune import imported
from encodery.finetune.artifact import MODULE, FineTuned, golden_outputs, imported_head, load_head
from encodery.finetune.heads.pooled import TOKEN_MATCHING
from encodery.finetune.imported import (
    CONFIG_KEY,
    KIND_OF_TASK,
    MULTIPLE_CHOICE,
    PLACES,
    SEQUENCE_CLASSIFICATION,
    StockHeadKind,
)
from encodery.model.formats import CheckpointFormat
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.norms.layer import LayerNorm
from encodery.model.settings import ModelSettings

GOLDEN = "golden"  # What the module gave when it was saved, which is nothing learnt.
OUTPUTS = "outputs"
ALONE = "head=false writes the encoder alone."
POOLED = {"mean": "the mean of the states", "cls": "the first state", "max": "the largest of the states"}
PROBLEMS = {
    "classify": "single_label_classification",
    "pair": "single_label_classification",
    "multilabel": imported.MULTI_LABEL,
    "regress": "regression",
}


@dataclass(frozen=True, eq=False)
class ExportedHead:
    """A head in a stock class: keys of config.json, tensors by their names, and what the class must give for golden
    sequences, (B, C) or (T, C)."""

    kind: StockHeadKind
    pairs: bool
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    outputs: Tensor
    max_length: int


def tuned_of(loaded: LoadedModel) -> FineTuned | None:
    """The task whose weights stand on the encoder; None where nothing does but the model's own head.

    Raises `SettingsError` for other weights, which a folder of transformers has no place for.
    """
    for name, kept in loaded.modules().items():
        trained = sorted(kept.keys() - {GOLDEN})
        if name != MODULE and trained:
            raise SettingsError(
                f"What was trained on the encoder ({name}: {', '.join(trained)}) has no place in a folder of "
                f"transformers: `encodery model export --format sentence_transformers` may hold it, {ALONE}"
            )
    tuned = load_head(loaded) if "task" in loaded.settings else None
    weights = () if tuned is None else tuple(tuned.module.parameters())
    return tuned if weights else None


def unopened(loaded: LoadedModel) -> FineTuned | None:
    """The task of a head that an imported file had and that was not needed so far; None where it had none.

    Raises `SettingsError` for a head that is not known here, which therefore goes nowhere but back as it came.
    """
    if loaded.origin is None or imported.head_kind(loaded.origin.config) is None:
        return None
    found = imported_head(loaded)
    if found is None:
        named = ", ".join(loaded.origin.config["architectures"])
        raise SettingsError(f"The head of {named} is not known here, so it can only be written as it came; {ALONE}")
    return found


def came_so(loaded: LoadedModel, tuned: FineTuned) -> bool:
    """Whether the head still is the one that the imported file had."""
    found = imported.read_head(loaded) if loaded.origin is not None else None
    if found is None or found.task != tuned.task or found.metadata != tuned.metadata:
        return False
    ours, theirs = tuned.module.state_dict(), found.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def held(tuned: FineTuned, model: Model, kept: Mapping[str, Tensor], door: CheckpointFormat) -> ExportedHead:
    """The head in the stock class of this layout; `model` is the encoder alone, `kept` its golden vectors.

    Raises `SettingsError` saying why no class holds it.
    """
    task, name = tuned.task, name_of(tuned.task)
    layers = {key.removeprefix("head."): tensor.detach().cpu() for key, tensor in tuned.module.state_dict().items()}
    kind = KIND_OF_TASK.get(name)
    check_matching(tuned.task, tuned.metadata, f"; {ALONE}")
    if kind is None or not {key.split(".")[0] for key in layers} <= {"dense", "norm", "out"}:
        raise SettingsError(
            f"The head of the task '{name}' has no counterpart among the stock classes of transformers, which have "
            f"heads for {', '.join(KIND_OF_TASK)}. Nothing was written: {ALONE}"
        )
    stands = door.stock_classes[0].removesuffix("Model") + f"For{kind}"
    modern, over = _fitted(task, kind, layers, model.settings, door, stands)
    scale, shift = _folded(name, tuned)
    rate = float(getattr(task, "rate", 1.0))
    layers["out.weight"] = layers["out.weight"] * (rate * scale)
    layers["out.bias"] = layers["out.bias"] * (rate * scale) + shift
    if modern and "norm.weight" not in layers:
        layers |= imported.identity_layers(model)
    if modern and not over["classifier_bias"]:
        del layers["dense.bias"]
    if modern and not over["norm_bias"]:
        del layers["norm.bias"]
    places = PLACES[name_of(door)][kind]
    tensors = {}
    for key, tensor in layers.items():
        layer, _, end = key.partition(".")
        place = f"{places[layer]}.{end}"
        tensors[door.prefix + place if place.startswith("pooler.") else place] = tensor
    config = {"architectures": [stands], **over, **_labels(name, tuned), CONFIG_KEY: _told(tuned, name)}
    outputs = golden_outputs(model, tuned.module, kept) * scale + shift
    return ExportedHead(kind, name in imported.PAIR_TASKS, config, tensors, outputs, tuned.max_length)


def check_matching(task: Any, known: Mapping[str, Any], alone: str) -> None:
    """Raises `SettingsError` for a head that matches the words of two texts, which no stock class does."""
    if known.get(TOKEN_MATCHING):
        raise SettingsError(
            f"The head of the task '{name_of(task)}' also reads how the words of the two texts match; no stock class "
            f"computes that. Nothing was written. Fine-tuning with task.token_matching=false gives a head without{alone}"
        )


def _fitted(
    task: Any,
    kind: StockHeadKind,
    layers: Mapping[str, Tensor],
    settings: ModelSettings,
    door: CheckpointFormat,
    stands: str,
) -> tuple[bool, dict[str, Any]]:
    """Whether the class has a norm of its own before the outputs, and keys of config.json.

    Raises `SettingsError` for a head that the class would not compute.
    """
    pooling = task.pooling if kind in (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE) else None
    dense, norm = "dense.weight" in layers, "norm.weight" in layers
    over: dict[str, Any] = {"classifier_dropout": task.dropout}
    if "norm" not in PLACES[name_of(door)][kind]:
        if pooling is not None and not (pooling == "cls" and dense and not norm):
            theirs = f"{stands} reads the first state through a dense layer with tanh"
            raise _unheld(task, layers, theirs, "task.pooling=cls task.head_dense=true")
        return False, over
    assert isinstance(settings.norm, LayerNorm)
    if norm and pooling in ("cls", "mean") and settings.norm.eps == imported.DEFAULT_NORM_EPS:
        over |= {"classifier_pooling": pooling, "classifier_activation": "gelu"}
        over["classifier_bias"] = bool(layers["dense.bias"].any())
        return True, {**over, "norm_bias": settings.norm.bias or bool(layers["norm.bias"].any())}
    if dense or norm or pooling not in (None, "cls"):
        theirs = f"{stands} puts a dense layer and a norm before the linear map, which let only the first state through"
        raise _unheld(task, layers, theirs, "task.pooling=cls task.head_dense=false")
    over |= {"classifier_pooling": "cls", "classifier_activation": imported.IDENTITY_ACTIVATION}
    return True, {**over, "classifier_bias": settings.norm.bias, "norm_bias": settings.norm.bias}


def _unheld(task: Any, layers: Mapping[str, Tensor], theirs: str, way: str) -> SettingsError:
    kind = "gelu and a norm" if "norm.weight" in layers else "tanh"
    layer = f", a dense layer with {kind}" if "dense.weight" in layers else ""
    return SettingsError(
        f"The head of the task '{name_of(task)}' is {POOLED[task.pooling]}{layer} and a linear map; no stock class of "
        f"this layout computes that: {theirs}. Nothing was written. Fine-tuning with {way} gives a head that it holds; "
        f"{ALONE}"
    )


def _folded(name: str, tuned: FineTuned) -> tuple[float, float]:
    """What the outputs are multiplied by, and what is then added, so that nothing need be known beside them."""
    if name == "regress":
        return tuned.metadata["spread"], tuned.metadata["mean"]
    return 1 / tuned.calibration.get("temperature", 1.0), 0.0


def _labels(name: str, tuned: FineTuned) -> dict[str, Any]:
    labels = list(tuned.metadata.get("labels", ()))
    if (
        name == "tag" and tuned.metadata["kind"] == "spans"
    ):  # Of tags without their B- and I- each is one of the latter.
        labels = [label if label == "O" or label[:2] in ("B-", "I-") else f"I-{label}" for label in labels]
    if name in ("rank", "regress"):
        labels = ["LABEL_0"]
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return {**(named if labels else {}), **({"problem_type": PROBLEMS[name]} if name in PROBLEMS else {})}


def _told(tuned: FineTuned, name: str) -> dict[str, Any]:
    """What the folder tells us of the task."""
    task = encode(tuned.task) | ({"scheme": "bio"} if name == "tag" else {})
    known = {key: tuned.metadata[key] for key in ("low", "high", "unanswered") if key in tuned.metadata}
    left = {key: value for key, value in tuned.calibration.items() if key != "temperature"}
    reads = {"max_length": tuned.max_length, "truncate": tuned.truncate}
    return {"task": task, "known": known, "tuned": left, "reads": reads}
