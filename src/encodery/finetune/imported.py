"""Heads as others store them: Hugging Face folders that classify texts or tokens, answer questions, choose.

Their heads are ours under other names. Of texts: BERT's pooler and classifier and RoBERTa's head are the first state
through a dense layer, tanh and a linear map; ModernBERT's has gelu and a norm in place of tanh, over the first state or
the mean. Of tokens: a linear map, before which ModernBERT has a dense layer and a norm; `straight` makes them say
nothing. A text classifier with one output is the task `rank`, unless the folder says otherwise: an export of ours tells
task, threshold and length under `KEY` of config.json. What the file had beyond the encoder stands in `Origin.rest`
(`model/foreign.py`). Shapes: H width of the model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode
from encodery.finetune.heads import word_spans
from encodery.finetune.tasks import Task, TaskModule
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.tokens.windows import Truncate, parse_truncate

StockHeadKind = Literal["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
SEQUENCE_CLASSIFICATION: StockHeadKind = "SequenceClassification"
TOKEN_CLASSIFICATION: StockHeadKind = "TokenClassification"
QUESTION_ANSWERING: StockHeadKind = "QuestionAnswering"
MULTIPLE_CHOICE: StockHeadKind = "MultipleChoice"
KIND_OF_TASK: dict[str, StockHeadKind] = {
    "classify": SEQUENCE_CLASSIFICATION,
    "pair": SEQUENCE_CLASSIFICATION,
    "multilabel": SEQUENCE_CLASSIFICATION,
    "regress": SEQUENCE_CLASSIFICATION,
    "rank": SEQUENCE_CLASSIFICATION,
    "tag": TOKEN_CLASSIFICATION,
    "span": QUESTION_ANSWERING,
    "choice": MULTIPLE_CHOICE,
}
"""The kind of class that says what a task says."""
PAIR_TASKS = ("pair", "rank", "span", "choice")
"""Tasks that read two texts together."""
CONFIG_KEY = "encodery"
MULTI_LABEL = "multi_label_classification"
IDENTITY_ACTIVATION = "linear"
"""The activation of a head whose first layers say nothing."""
DEFAULT_NORM_EPS = 1e-5
IDENTITY_TOLERANCE = 2e-2  # What half precision may do to `straight`, as a share.
NO_LENGTH = 1 << 30  # What tokenizers write who have no length of their own is far above.

_POOLED = {"dense": "pooler.dense", "out": "classifier"}
_NORMED = {"dense": "head.dense", "norm": "head.norm", "out": "classifier"}
_LINEAR = {TOKEN_CLASSIFICATION: {"out": "classifier"}, QUESTION_ANSWERING: {"out": "qa_outputs"}}
PLACES: dict[str, dict[StockHeadKind, dict[str, str]]] = {
    "bert": {SEQUENCE_CLASSIFICATION: _POOLED, MULTIPLE_CHOICE: _POOLED, **_LINEAR},
    "roberta": {
        SEQUENCE_CLASSIFICATION: {"dense": "classifier.dense", "out": "classifier.out_proj"},
        MULTIPLE_CHOICE: _POOLED,
        **_LINEAR,
    },
    "modernbert": {
        SEQUENCE_CLASSIFICATION: _NORMED,
        MULTIPLE_CHOICE: _NORMED,
        TOKEN_CLASSIFICATION: _NORMED,
        QUESTION_ANSWERING: _NORMED,
    },
}
"""Door, kind -> our layers of a head -> where theirs lie."""
_MAY_LACK = ("dense.bias", "norm.bias")


@dataclasses.dataclass(frozen=True, eq=False)
class Stock:
    """The task of such a folder, its module in evaluation mode, what it knows, and how it reads."""

    task: Task
    module: TaskModule
    metadata: dict[str, Any]
    calibration: dict[str, float]
    max_length: int
    truncate: Truncate


def head_kind(config: Mapping[str, Any]) -> StockHeadKind | None:
    """What the class that a config.json names says; None for a class without such a head."""
    named = [str(name) for name in config.get("architectures") or ()]
    return next((kind for kind in KIND_OF_TASK.values() if any(name.endswith(f"For{kind}") for name in named)), None)


def read_head(loaded: LoadedModel) -> Stock | None:
    """What a foreign folder's head is to us; None where it has none that we compute.

    Raises `SettingsError` for a ranker's head that we would not compute, `ArtifactError` where tensors are missing or
    the tokenizer does not tell the two texts of a pair apart as the model does.
    """
    origin, where = loaded.origin, str(loaded.path)
    kind = None if origin is None else head_kind(origin.config)
    if origin is None or kind is None:
        return None
    layers = _layers(origin.extra_tensors, PLACES[origin.format][kind], loaded.model.settings.width, where)
    told = _told(origin.config, kind)
    name = told["task"]["is"]
    if name == "rank" and layers["out.weight"].shape[0] != 1:
        name = "multilabel" if origin.config.get("problem_type") == MULTI_LABEL else "classify"
    form: dict[str, Any] = (
        {"pooling": "cls", "head_dense": True} if kind in (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE) else {}
    )
    if origin.format == "modernbert":
        found = _modern(origin.config, name, kind, layers, loaded.model, where)
        if found is None:
            return None
        form, layers = found
    task = decode(Task, {**told["task"], "is": name, **form, "head_lr_scale": 1.0}, f"{where}: {CONFIG_KEY}")
    known = _known(name, told["known"], origin.config, layers["out.weight"].shape[0])
    module = task.build(loaded.model.settings.shape, known)
    before = "head." if kind in (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE) else ""
    module.load_state_dict({f"{before}{place}": tensor for place, tensor in layers.items()})
    if name in PAIR_TASKS:
        _check_segments(loaded)
    reads = told["reads"]
    length, truncate = reads.get("max_length"), reads.get("truncate", task.truncate)
    longest = _length(loaded) if not isinstance(length, int) else min(length, loaded.model.settings.max_length)
    return Stock(task, module.eval(), known, told["tuned"], longest, parse_truncate(truncate))


def identity_layers(model: Model) -> dict[str, Tensor]:
    """A dense layer without activation and a norm through which states that left the model's last norm go as they came.

    The dense layer takes that norm's weight and bias back, so that the second norm finds what it would make itself. It
    adds its eps to a variance of 1, which a little more weight makes up for.
    """
    norm = model.encoder.final_norm
    assert isinstance(norm, nn.LayerNorm)
    weight = norm.weight.detach().float()
    bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach().float()
    stretched = weight * math.sqrt(1 + norm.eps)
    return {
        "dense.weight": torch.diag(1 / weight),
        "dense.bias": -bias / weight,
        "norm.weight": stretched,
        "norm.bias": bias.clone(),
    }


def _told(config: Mapping[str, Any], kind: StockHeadKind) -> dict[str, Any]:
    """What an export of ours says of its task, as far as it is of this kind; of others what they usually are."""
    given = config.get(CONFIG_KEY)
    told = given if isinstance(given, dict) else {}
    task = told.get("task")
    if not isinstance(task, dict) or KIND_OF_TASK.get(task.get("is", "")) != kind:
        usual = {
            SEQUENCE_CLASSIFICATION: "rank",
            TOKEN_CLASSIFICATION: "tag",
            QUESTION_ANSWERING: "span",
            MULTIPLE_CHOICE: "choice",
        }[kind]
        return {"task": {"is": usual}, "known": {}, "tuned": {}, "reads": {}}
    return {
        "task": task,
        "known": told.get("known", {}),
        "tuned": told.get("tuned", {}),
        "reads": told.get("reads", {}),
    }


def _modern(
    config: Mapping[str, Any], name: str, kind: StockHeadKind, layers: dict[str, Tensor], model: Model, where: str
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The form of ModernBERT's head and its layers; None where no task of ours has it."""
    pooling, activation = config.get("classifier_pooling", "cls"), config.get("classifier_activation", "gelu")
    pooled: dict[str, Any] = {"pooling": pooling} if kind in (SEQUENCE_CLASSIFICATION, MULTIPLE_CHOICE) else {}
    if activation == IDENTITY_ACTIVATION and (pooling == "cls" or not pooled):
        through = identity_layers(model)
        if all(
            torch.allclose(layers[key], tensor, rtol=IDENTITY_TOLERANCE, atol=1e-6) for key, tensor in through.items()
        ):
            flat = {**pooled, "head_dense": False} if pooled else {}
            return flat, {key: tensor for key, tensor in layers.items() if key.startswith("out.")}
    if name != "rank":
        return None
    for key, value, allowed in (
        ("classifier_pooling", pooling, ("cls", "mean")),
        ("classifier_activation", activation, ("gelu",)),
        ("norm_eps", config.get("norm_eps", DEFAULT_NORM_EPS), (DEFAULT_NORM_EPS,)),
    ):
        if value not in allowed:
            known = " or ".join(map(str, allowed))
            raise SettingsError(f"{where}: {key} = {value!r} of a cross-encoder is not supported; {known} is.")
    return {**pooled, "head_dense": True, "head_norm": True}, layers


def _layers(rest: Mapping[str, Tensor], places: Mapping[str, str], width: int, where: str) -> dict[str, Tensor]:
    """The head's layers in fp32; a bias the layout may leave out is zeros."""
    found: dict[str, Tensor] = {}
    for layer, place in places.items():
        for end in ("weight", "bias"):
            mine, theirs = f"{layer}.{end}", f"{place}.{end}"
            tensor = next((t for name, t in rest.items() if name == theirs or name.endswith(f".{theirs}")), None)
            if tensor is None and mine not in _MAY_LACK:
                raise ArtifactError(f"{where}: has no tensor '{theirs}', which its config.json calls for.")
            found[mine] = torch.zeros(width) if tensor is None else tensor.detach().float()
    return found


def _known(name: str, told: Mapping[str, Any], config: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """What the task knows of its rows."""
    if name == "rank":
        return {"low": float(told.get("low", 0.0)), "high": float(told.get("high", 1.0))}
    if name == "regress":
        return {"mean": 0.0, "spread": 1.0}
    if name == "span":
        return {"unanswered": int(told.get("unanswered", 0))}
    if name == "choice":
        return {}
    names = {int(place): str(label) for place, label in (config.get("id2label") or {}).items()}
    labels = [names.get(place, f"LABEL_{place}") for place in range(outputs)]
    known: dict[str, Any] = {"labels": labels, "counts": [1] * outputs}
    if name == "tag":
        known["kind"] = word_spans.tag_kind([labels])
    return known


def _check_segments(loaded: LoadedModel) -> None:
    """The model's segments are told by place (`finetune/preprocess.py`), and its tokenizer must mean the same."""
    if loaded.model.settings.type_vocab_size < 2 or loaded.tokenizer_path is None:
        return
    if max(loaded.tokenizer.backend.encode("a", "b").type_ids) != 1:
        raise ArtifactError(
            f"{loaded.path}: its model knows segments, but its tokenizer does not mark the second text of a pair."
        )


def _length(loaded: LoadedModel) -> int:
    """The longest sequence: the tokenizer's, where it says less than the model."""
    path = (loaded.tokenizer_path or Path(loaded.path)) / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    most = loaded.model.settings.max_length
    return min(told, most) if isinstance(told, int) and 0 < told < NO_LENGTH else most
