"""Heads of Hugging Face folders that classify texts or tokens, answer questions or choose, as fine-tuned heads of ours.

Where a stock class stores its head, and what it computes, is declared by the checkpoint format (`HeadForm`). Heads that
read one vector per sequence are a dense layer, an activation, perhaps a norm, and a linear map, as in our `PooledHead`.
Heads of tokens are a linear map; if a dense layer and a norm precede it, they must be the identity that our own export
writes (`identity_layers`). A text classifier with one output becomes the task `rank`, or `regress`, which reads single
texts too, if its problem_type is regression; unless the folder names another task: an export of ours stores task,
threshold and length under `CONFIG_KEY` of config.json.
Shapes: H width of the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import find_part
from encodery.base.settings import decode
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.heads.word_spans import tag_kind
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.format_types import HeadForm, HeadKind
from encodery.model.formats import CheckpointFormat
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.tokens.windows import parse_truncate

SEQUENCE_CLASSIFICATION: HeadKind = "SequenceClassification"
TOKEN_CLASSIFICATION: HeadKind = "TokenClassification"
QUESTION_ANSWERING: HeadKind = "QuestionAnswering"
MULTIPLE_CHOICE: HeadKind = "MultipleChoice"
POOLED_KINDS = (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE)
"""Kinds whose head reads one vector per sequence."""
KIND_OF_TASK: dict[str, HeadKind] = {
    "classify": SEQUENCE_CLASSIFICATION,
    "pair": SEQUENCE_CLASSIFICATION,
    "multilabel": SEQUENCE_CLASSIFICATION,
    "regress": SEQUENCE_CLASSIFICATION,
    "rank": SEQUENCE_CLASSIFICATION,
    "tag": TOKEN_CLASSIFICATION,
    "span": QUESTION_ANSWERING,
    "choice": MULTIPLE_CHOICE,
}
"""Task → the kind of stock class that has its head."""
TASK_OF_KIND: dict[HeadKind, str] = {
    SEQUENCE_CLASSIFICATION: "rank",
    TOKEN_CLASSIFICATION: "tag",
    QUESTION_ANSWERING: "span",
    MULTIPLE_CHOICE: "choice",
}
"""Kind of a folder that names no task → its task."""
PAIR_TASKS = ("pair", "rank", "span", "choice")
"""Tasks that read two texts together."""
CONFIG_KEY = "encodery"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
IDENTITY_ACTIVATION = "linear"
"""The activation of a head whose dense layer and norm are the identity."""
DEFAULT_NORM_EPS = 1e-5
IDENTITY_TOLERANCE = 2e-2
"""Relative error of identity layers that half precision may cause."""
NO_LENGTH = 1 << 30
"""Tokenizers without a maximum length state one far above this."""
OPTIONAL_TENSORS = ("dense.bias", "norm.bias")
"""Tensors that a head may lack; they are zeros then."""


@dataclass(frozen=True)
class _StoredTask:
    """What a folder states about its task under `CONFIG_KEY`; `task` always has its name."""

    task: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, float] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)


def head_kind(config: Mapping[str, Any]) -> HeadKind | None:
    """Return the kind of head of the class that a config.json names, None for a class without one."""
    classes = [str(name) for name in config.get("architectures") or ()]
    return next((kind for kind in TASK_OF_KIND if any(name.endswith(f"For{kind}") for name in classes)), None)


def read_head(loaded: LoadedModel) -> FineTuned | None:
    """Return the head of an imported folder; None without a head, and for a head that no task of ours computes.

    Raises `SettingsError` if the checkpoint format does not declare where such a head is stored, and for the head of a
    ranker that we would compute differently; `ArtifactError` for missing tensors, and if the tokenizer does not mark
    the two texts of a pair as the model distinguishes them.
    """
    origin, where = loaded.origin, str(loaded.path)
    kind = None if origin is None else head_kind(origin.config)
    if origin is None or kind is None:
        return None
    form = find_part(CheckpointFormat, origin.format)().head_form(kind, origin.config)
    layers = _layers(origin.extra_tensors, form.layers, loaded.model.settings.width, where)
    stored = _stored_task(origin.config, kind)
    name = stored.task["is"]
    if name == "rank" and layers["out.weight"].shape[0] != 1:
        name = "multilabel" if origin.config.get("problem_type") == MULTI_LABEL else "classify"
    elif name == "rank" and origin.config.get("problem_type") == REGRESSION and "norm" not in form.layers:
        name = "regress"
    settings = _head_settings(form, kind, name, layers, loaded)
    if settings is None:
        return None
    if "norm" in form.layers and not settings.get("head_norm"):  # Identity layers, which nobody needs to compute.
        layers = {key: tensor for key, tensor in layers.items() if key.startswith("out.")}
    task = decode(Task, {**stored.task, "is": name, **settings, "head_lr_scale": 1.0}, f"{where}: {CONFIG_KEY}")
    metadata = _metadata(name, stored.metadata, origin.config, layers["out.weight"].shape[0])
    module = task.build(loaded.model.settings.shape, metadata)
    prefix = "head." if kind in POOLED_KINDS else ""
    module.load_state_dict({f"{prefix}{key}": tensor for key, tensor in layers.items()})
    if name in PAIR_TASKS:
        _check_segments(loaded)
    length = stored.preprocessing.get("max_length")
    max_length = min(length, loaded.model.settings.max_length) if isinstance(length, int) else _max_length(loaded)
    truncate = parse_truncate(stored.preprocessing.get("truncate", task.truncate))
    return FineTuned(task, module.eval(), metadata, stored.calibration, max_length, truncate)


def _head_settings(
    form: HeadForm, kind: HeadKind, name: str, layers: Mapping[str, Tensor], loaded: LoadedModel
) -> dict[str, Any] | None:
    """Return the settings with which the task `name` computes a head; None if no task of ours does."""
    pooled = kind in POOLED_KINDS
    if "norm" in form.layers:
        if _is_identity(form, kind, layers, loaded.model):
            return {"pooling": "cls", "head_dense": False} if pooled else {}
        if name != "rank":
            return None
        _check_normed(form, str(loaded.path))
        return {"pooling": form.pooling, "head_dense": True, "head_norm": True}
    dense = "dense" in form.layers
    if not pooled:
        return None if dense else {}
    settings: dict[str, Any] = {"pooling": form.pooling, "head_dense": dense}
    return settings | ({"head_activation": form.activation} if dense else {})


def identity_layers(model: Model) -> dict[str, Tensor]:
    """Return a dense layer without activation and a norm that do not change the output of the model's last norm.

    The dense layer undoes the weight and bias of that norm, so that the second norm's input is already normalised. The
    second norm adds its eps to a variance of 1, for which its weight is scaled up.
    """
    norm = model.encoder.final_norm
    assert isinstance(norm, nn.LayerNorm)
    weight = norm.weight.detach().float()
    bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach().float()
    return {
        "dense.weight": torch.diag(1 / weight),
        "dense.bias": -bias / weight,
        "norm.weight": weight * math.sqrt(1 + norm.eps),
        "norm.bias": bias.clone(),
    }


def _stored_task(config: Mapping[str, Any], kind: HeadKind) -> _StoredTask:
    """Return what an export of ours states, if it is for this kind of head, else the usual task of the kind."""
    value = config.get(CONFIG_KEY)
    table = value if isinstance(value, dict) else {}
    task = table.get("task")
    if not isinstance(task, dict) or KIND_OF_TASK.get(task.get("is", "")) != kind:
        return _StoredTask({"is": TASK_OF_KIND[kind]})
    return _StoredTask(task, table.get("metadata", {}), table.get("calibration", {}), table.get("preprocessing", {}))


def _is_identity(form: HeadForm, kind: HeadKind, layers: Mapping[str, Tensor], model: Model) -> bool:
    """Return whether the layers before the linear map do not change the first state, or the states of tokens."""
    if form.activation != IDENTITY_ACTIVATION or (kind in POOLED_KINDS and form.pooling != "cls"):
        return False
    return all(
        torch.allclose(layers[key], tensor, rtol=IDENTITY_TOLERANCE, atol=1e-6)
        for key, tensor in identity_layers(model).items()
    )


def _check_normed(form: HeadForm, where: str) -> None:
    """Raise `SettingsError` for a head with a norm that `PooledHead` does not compute."""
    for key, value, allowed in (
        ("classifier_pooling", form.pooling, ("cls", "mean")),
        ("classifier_activation", form.activation, ("gelu",)),
        ("norm_eps", form.norm_eps, (DEFAULT_NORM_EPS,)),
    ):
        if value not in allowed:
            supported = " or ".join(map(str, allowed))
            raise SettingsError(
                f"{where}: {key} = {value!r} in the head of a cross-encoder is not supported; {supported} is."
            )


def _layers(tensors: Mapping[str, Tensor], names: Mapping[str, str], width: int, where: str) -> dict[str, Tensor]:
    """Return the layers of the head in fp32, by our names."""
    layers: dict[str, Tensor] = {}
    for layer, their_layer in names.items():
        for end in ("weight", "bias"):
            ours, theirs = f"{layer}.{end}", f"{their_layer}.{end}"
            tensor = next((t for name, t in tensors.items() if name == theirs or name.endswith(f".{theirs}")), None)
            if tensor is None and ours not in OPTIONAL_TENSORS:
                raise ArtifactError(f"{where}: has no tensor '{theirs}', which the class in its config.json needs.")
            layers[ours] = torch.zeros(width) if tensor is None else tensor.detach().float()
    return layers


def _metadata(name: str, stored: Mapping[str, Any], config: Mapping[str, Any], num_outputs: int) -> TaskMetadata:
    """Return the metadata of a task from what an export of ours stores, or from the labels of config.json."""
    if name == "rank":
        return TaskMetadata(low=float(stored.get("low", 0.0)), high=float(stored.get("high", 1.0)))
    if name == "span":
        return TaskMetadata(unanswered=int(stored.get("unanswered", 0)))
    if name in ("regress", "choice"):
        return TaskMetadata()
    names = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
    labels = tuple(names.get(index, f"LABEL_{index}") for index in range(num_outputs))
    counts = (1.0,) * num_outputs
    if name == "tag":
        return TaskMetadata(labels=labels, counts=counts, tag_kind=tag_kind([labels]))
    return TaskMetadata(labels=labels, counts=counts)


def _check_segments(loaded: LoadedModel) -> None:
    """Raise `ArtifactError` if the model has segments and the tokenizer does not mark the second text of a pair.

    Our preprocessor sets segments by position, and the tokenizer must agree with it.
    """
    if loaded.model.settings.type_vocab_size < 2 or loaded.tokenizer_path is None:
        return
    if max(loaded.tokenizer.backend.encode("a", "b").type_ids) != 1:
        raise ArtifactError(
            f"{loaded.path}: the model has segments, but the tokenizer does not mark the second text of a pair."
        )


def _max_length(loaded: LoadedModel) -> int:
    """Return the longest sequence: that of the tokenizer if it states less than the model."""
    path = (loaded.tokenizer_path or Path(loaded.path)) / "tokenizer_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    model_max = loaded.model.settings.max_length
    return min(stated, model_max) if isinstance(stated, int) and 0 < stated < NO_LENGTH else model_max
