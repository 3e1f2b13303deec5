"""Cross-encoders as others store them: a Hugging Face folder for sequence classification with one output, as `rank`.

Their heads are ours under other names: BERT's pooler and classifier and RoBERTa's head are the first state through a
dense layer, tanh and a linear map; ModernBERT's has gelu and a norm in place of tanh, over the first state or the mean.
What the file had beyond the encoder stands in `Origin.rest` (`model/foreign.py`). Shapes: H width of the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError, SettingsError
from encodery.finetune.tasks import TaskModule
from encodery.finetune.tasks.rank import Rank
from encodery.model.load import Loaded

KIND = "ForSequenceClassification"
KNOWN = {"low": 0.0, "high": 1.0}
USUAL_EPS = 1e-5
LARGE = 1 << 30  # What tokenizers write who have no length of their own is far above.

_POOLED = {
    "head.dense.weight": "pooler.dense.weight",
    "head.dense.bias": "pooler.dense.bias",
    "head.out.weight": "classifier.weight",
    "head.out.bias": "classifier.bias",
}
_CLASSIFIER = {
    "head.dense.weight": "classifier.dense.weight",
    "head.dense.bias": "classifier.dense.bias",
    "head.out.weight": "classifier.out_proj.weight",
    "head.out.bias": "classifier.out_proj.bias",
}
_PREDICTION = {
    "head.dense.weight": "head.dense.weight",
    "head.dense.bias": "head.dense.bias",
    "head.norm.weight": "head.norm.weight",
    "head.norm.bias": "head.norm.bias",
    "head.out.weight": "classifier.weight",
    "head.out.bias": "classifier.bias",
}
_NAMES = {"bert": _POOLED, "roberta": _CLASSIFIER, "modernbert": _PREDICTION}
_MAY_LACK = ("head.dense.bias", "head.norm.bias")


@dataclasses.dataclass(frozen=True, eq=False)
class Stock:
    """The task of such a folder, its module in evaluation mode, and the longest sequence it is made for."""

    task: Rank
    module: TaskModule
    max_length: int


def ranker(loaded: Loaded) -> Stock | None:
    """What a foreign folder's head is to us; None where it has none of that kind, or one of several outputs.

    Raises `SettingsError` for a head that we would not compute, `ArtifactError` where tensors are missing or the
    tokenizer does not tell the two texts apart as the model does.
    """
    origin = loaded.origin
    if origin is None or not any(str(name).endswith(KIND) for name in origin.config.get("architectures") or ()):
        return None
    where, names = str(loaded.path), _NAMES[origin.door]
    width = loaded.model.settings.width
    state = _head(origin.rest, names, width, where)
    if state["head.out.weight"].shape[0] != 1:
        return None
    task = _task(origin.door, origin.config, where)
    module = task.build(loaded.model.settings.shape, KNOWN)
    module.load_state_dict(state)
    _check_segments(loaded)
    return Stock(task, module.eval(), _length(loaded))


def _task(door: str, config: Mapping[str, Any], where: str) -> Rank:
    """`rate` is that of a head that is not new: it learns as fast as the model."""
    if door != "modernbert":
        return Rank(pooling="cls", hidden=True, rate=1.0)
    pooling = config.get("classifier_pooling", "cls")
    for key, value, allowed in (
        ("classifier_pooling", pooling, ("cls", "mean")),
        ("classifier_activation", config.get("classifier_activation", "gelu"), ("gelu",)),
        ("norm_eps", config.get("norm_eps", USUAL_EPS), (USUAL_EPS,)),
    ):
        if value not in allowed:
            known = " or ".join(map(str, allowed))
            raise SettingsError(f"{where}: {key} = {value!r} of a cross-encoder is not supported; {known} is.")
    return Rank(pooling=pooling, hidden=True, normed=True, rate=1.0)


def _head(rest: Mapping[str, Tensor], names: Mapping[str, str], width: int, where: str) -> dict[str, Tensor]:
    """Our names to the head's tensors in fp32; a bias the layout may leave out is zeros."""
    found: dict[str, Tensor] = {}
    for mine, theirs in names.items():
        tensor = next((t for name, t in rest.items() if name == theirs or name.endswith(f".{theirs}")), None)
        if tensor is None and mine not in _MAY_LACK:
            raise ArtifactError(f"{where}: has no tensor '{theirs}', which its config.json calls for.")
        found[mine] = torch.zeros(width) if tensor is None else tensor.detach().float()
    return found


def _check_segments(loaded: Loaded) -> None:
    """The model's segments are told by place (`finetune/reader.py`), and its tokenizer must mean the same."""
    if loaded.model.settings.segments < 2 or loaded.tokenizer_path is None:
        return
    if max(loaded.tokenizer.inner.encode("a", "b").type_ids) != 1:
        raise ArtifactError(
            f"{loaded.path}: its model knows segments, but its tokenizer does not mark the second text of a pair."
        )


def _length(loaded: Loaded) -> int:
    """The longest sequence: the tokenizer's, where it says less than the model."""
    path = (loaded.tokenizer_path or Path(loaded.path)) / "tokenizer_config.json"
    told = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    most = loaded.model.settings.max_length
    return min(told, most) if isinstance(told, int) and 0 < told < LARGE else most
