"""Heads of fine-tuned models as heads of stock classes; a head that no stock class computes is refused.

`finetune/imported.py` reads them. What a stock class has no place for is folded into the last linear map: its learning
rate scale, a temperature, the mean and spread of scores. Thresholds, lengths and the task are stored in config.json
under `CONFIG_KEY`, which stock classes ignore.
Shapes: B golden sequences, T their tokens, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.finetune import imported
from encodery.finetune.artifact import MODULE, golden_outputs, imported_head, load_head
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.imported import CONFIG_KEY, KIND_OF_TASK, MULTIPLE_CHOICE, SEQUENCE_CLASSIFICATION
from encodery.finetune.task_types import TaskMetadata
from encodery.model.format_types import HeadForm, HeadKind
from encodery.model.formats import CheckpointFormat
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.model.norms.layer import LayerNorm
from encodery.model.settings import ModelSettings

GOLDEN = "golden"
"""The golden outputs of a module, which are no trained weights."""
OUTPUTS = "outputs"
ALONE = "head=false writes the encoder alone."
POOLINGS = {
    "mean": "the mean of the hidden states",
    "cls": "the first hidden state",
    "max": "the maximum of the hidden states",
}
PROBLEM_TYPES = {
    "classify": "single_label_classification",
    "pair": "single_label_classification",
    "multilabel": imported.MULTI_LABEL,
    "regress": "regression",
}
"""Task → problem_type in config.json."""


@dataclass(frozen=True, eq=False)
class ExportedHead:
    """A head in a stock class.

    `kind` is that of the class, `pairs` says whether it reads two texts; `config` are keys of config.json; `tensors`
    are named as in the checkpoint; `outputs` are what the class must give for the golden sequences, (B, C) or (T, C).
    """

    kind: HeadKind
    pairs: bool
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    outputs: Tensor


def auto_class(stock_class: str) -> str:
    """Return the class of transformers that loads what a stock class computes, whatever the format."""
    _, separator, head = stock_class.rpartition("For")
    return f"AutoModel{separator}{head}" if separator else "AutoModel"


def trained_head(loaded: LoadedModel) -> FineTuned | None:
    """Return the fine-tuned head of a model; None if only the encoder and its own head have weights.

    Raises `SettingsError` for other trained weights, which a folder of transformers cannot hold.
    """
    for name, tensors in loaded.modules().items():
        trained = sorted(tensors.keys() - {GOLDEN})
        if name != MODULE and trained:
            raise SettingsError(
                f"The weights {', '.join(trained)} of the module '{name}' were trained with the encoder, and a folder "
                f"of transformers cannot hold them. `encodery model export --format sentence_transformers` may; {ALONE}"
            )
    head = load_head(loaded) if "task" in loaded.settings else None
    return head if head is not None and any(True for _ in head.module.parameters()) else None


def unused_head(loaded: LoadedModel) -> FineTuned | None:
    """Return the head that an imported checkpoint has and that no artifact has used yet; None if it has none.

    Raises `SettingsError` for an unknown head, which can only be written back unchanged.
    """
    if loaded.origin is None or imported.head_kind(loaded.origin.config) is None:
        return None
    head = imported_head(loaded)
    if head is None:
        name = ", ".join(loaded.origin.config["architectures"])
        raise SettingsError(f"The head of {name} is not supported, so it can only be written unchanged; {ALONE}")
    return head


def is_unchanged(loaded: LoadedModel, head: FineTuned) -> bool:
    """Whether the head is still the one of the imported checkpoint."""
    original = imported.read_head(loaded) if loaded.origin is not None else None
    if original is None or original.task != head.task or original.metadata != head.metadata:
        return False
    ours, theirs = head.module.state_dict(), original.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def export_head(
    head: FineTuned, model: Model, golden: Mapping[str, Tensor], checkpoint_format: CheckpointFormat
) -> ExportedHead:
    """Express a head in the stock class of a format.

    Args:
        head: The head.
        model: The encoder alone.
        golden: Its golden outputs.
        checkpoint_format: The format.

    Raises `SettingsError` saying why no stock class computes the head.
    """
    task: Any = head.task
    name = name_of(task)
    layers = {key.removeprefix("head."): tensor.detach().cpu() for key, tensor in head.module.state_dict().items()}
    kind = KIND_OF_TASK.get(name)
    require_no_token_matching(task, head.metadata, f" {ALONE}")
    if kind is None or not {key.split(".")[0] for key in layers} <= {"dense", "norm", "out"}:
        raise SettingsError(
            f"The head of the task '{name}' has no counterpart among the stock classes of transformers, which have "
            f"heads for {', '.join(KIND_OF_TASK)}. Nothing was written; {ALONE}"
        )
    stock_class = checkpoint_format.stock_class(kind)
    form = _form(task, kind, layers, model.settings, checkpoint_format, stock_class)
    scale, shift = _scale_and_shift(name, head)
    lr_scale = float(task.head_lr_scale)
    layers["out.weight"] = layers["out.weight"] * (lr_scale * scale)
    layers["out.bias"] = layers["out.bias"] * (lr_scale * scale) + shift
    if "norm" in form.layers:
        _add_identity_layers(layers, form, model)
    biases = {f"{layer}_bias": f"{layer}.bias" in layers for layer in ("dense", "norm")}
    config = checkpoint_format.head_config(form, dropout=task.dropout, **biases)
    tensors = {}
    for key, tensor in layers.items():
        layer, _, end = key.partition(".")
        place = form.layers[layer]
        prefix = checkpoint_format.prefix if place == checkpoint_format.pooler else ""
        tensors[f"{prefix}{place}.{end}"] = tensor
    config |= {"architectures": [stock_class], **_label_config(name, head), CONFIG_KEY: _task_config(head, name)}
    outputs = golden_outputs(model, head.module, golden) * scale + shift
    return ExportedHead(kind, name in imported.PAIR_TASKS, config, tensors, outputs)


def require_no_token_matching(task: Any, metadata: TaskMetadata, alternative: str) -> None:
    """Raise `SettingsError` for a head that matches the tokens of two texts, which no stock class does."""
    if metadata.token_matching:
        raise SettingsError(
            f"The head of the task '{name_of(task)}' also uses how the tokens of the two texts match, which no stock "
            f"class computes. Nothing was written. Fine-tune with task.token_matching=false.{alternative}"
        )


def _form(
    task: Any,
    kind: HeadKind,
    layers: Mapping[str, Tensor],
    settings: ModelSettings,
    checkpoint_format: CheckpointFormat,
    stock_class: str,
) -> HeadForm:
    """The form of the stock class's head that computes this head. Raises `SettingsError` if there is none."""
    form = checkpoint_format.head_form(kind, {})
    pooling = task.pooling if kind in (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE) else None
    dense, norm = "dense.weight" in layers, "norm.weight" in layers
    if "norm" not in form.layers:
        if pooling is not None and (norm or (pooling, dense and task.head_activation) != _reads(form)):
            raise _not_expressible(task, layers, *_described(form, stock_class))
        return form
    assert isinstance(settings.norm, LayerNorm)
    if norm and pooling in ("cls", "mean") and settings.norm.eps == form.norm_eps:
        return HeadForm(layers=form.layers, pooling=pooling, activation="gelu", norm_eps=form.norm_eps)
    if dense or norm or pooling not in (None, "cls"):
        theirs = (
            f"{stock_class} has a dense layer and a norm before the linear map, which can be made the identity for the "
            "first hidden state only"
        )
        raise _not_expressible(task, layers, theirs, "task.pooling=cls task.head_dense=false")
    return HeadForm(layers=form.layers, activation=imported.IDENTITY_ACTIVATION, norm_eps=form.norm_eps)


def _reads(form: HeadForm) -> tuple[str, str | Literal[False]]:
    """The pooling of a head without a norm, and the activation of its dense layer, False without one."""
    return form.pooling, "dense" in form.layers and form.activation


def _described(form: HeadForm, stock_class: str) -> tuple[str, str]:
    """What a stock class without a norm computes, and the settings with which a task computes the same."""
    pooling, activation = _reads(form)
    layer = f" through a dense layer with {activation}" if activation else " without a dense layer"
    settings = f"task.pooling={pooling} task.head_dense={'true' if activation else 'false'}"
    settings += f" task.head_activation={activation}" if activation and activation != "tanh" else ""
    return f"{stock_class} reads {POOLINGS[pooling]}{layer}", settings


def _add_identity_layers(layers: dict[str, Tensor], form: HeadForm, model: Model) -> None:
    """Add to `layers` the dense layer and the norm that the head lacks, and remove biases that the class omits."""
    norm = model.settings.norm
    assert isinstance(norm, LayerNorm)
    if form.activation == imported.IDENTITY_ACTIVATION:
        layers |= imported.identity_layers(model)
        dense_bias = norm_bias = norm.bias
    else:
        dense_bias = bool(layers["dense.bias"].any())
        norm_bias = norm.bias or bool(layers["norm.bias"].any())
    for name, needed in (("dense.bias", dense_bias), ("norm.bias", norm_bias)):
        if not needed:
            del layers[name]


def _not_expressible(task: Any, layers: Mapping[str, Tensor], theirs: str, settings: str) -> SettingsError:
    activation = "gelu and a norm" if "norm.weight" in layers else task.head_activation
    layer = f", a dense layer with {activation}" if "dense.weight" in layers else ""
    return SettingsError(
        f"The head of the task '{name_of(task)}' is {POOLINGS[task.pooling]}{layer} and a linear map, which no stock "
        f"class of this format computes: {theirs}. Nothing was written. Fine-tune with {settings}; {ALONE}"
    )


def _scale_and_shift(name: str, head: FineTuned) -> tuple[float, float]:
    """What the outputs are multiplied by and what is then added, so that the class needs to know neither."""
    if name == "regress":
        return head.metadata.std, head.metadata.mean
    return 1 / head.calibration.get("temperature", 1.0), 0.0


def _label_config(name: str, head: FineTuned) -> dict[str, Any]:
    """The keys of config.json for labels and the type of problem."""
    labels = list(head.metadata.labels)
    if name == "tag" and head.metadata.tag_kind == "spans":  # In the scheme io, tags have no prefix; they mean I-.
        labels = [label if label == "O" or label[:2] in ("B-", "I-") else f"I-{label}" for label in labels]
    if name in ("rank", "regress"):
        labels = ["LABEL_0"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return {**(names if labels else {}), **({"problem_type": PROBLEM_TYPES[name]} if name in PROBLEM_TYPES else {})}


def _task_config(head: FineTuned, name: str) -> dict[str, Any]:
    """What `finetune/imported.py` needs to read the head as this task."""
    task = encode(head.task) | ({"scheme": "bio"} if name == "tag" else {})
    metadata = {k: v for k, v in head.metadata.to_json().items() if k in ("low", "high", "unanswered")}
    calibration = {key: value for key, value in head.calibration.items() if key != "temperature"}
    return {
        "task": task,
        "metadata": metadata,
        "calibration": calibration,
        "preprocessing": {"max_length": head.max_length, "truncate": head.truncate},
    }
