"""What our models are as modules of sentence-transformers: class, config.json, weights.

Shapes: H width of the model, K of a vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.pooling import Pooling
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.pooling.weighted import Weighted
from encodery.encoders.postprocess import PostProcess, State
from encodery.encoders.postprocess.normalise import Normalise
from encodery.finetune.predict import Predictor

OLD, NEW = "sentence_transformers.models", "sentence_transformers"  # the old names are read by every version
MODES: dict[type[Pooling], str] = {Mean: "mean_tokens", CLS: "cls_token", Weighted: "weightedmean_tokens"}
KINDS = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
ALL_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
EACH_TOKEN = {"module_input_name": "token_embeddings"}
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
GELU = "torch.nn.modules.activation.GELU"


class Module(NamedTuple):
    """`type` is the class, `config` None where it has none; `tensors` its weights."""

    type: str
    config: dict[str, Any] | None = None
    tensors: dict[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.type.rsplit(".", 1)[-1]


TRANSFORMER = Module(f"{OLD}.Transformer")
TASK_TRANSFORMER = Module(f"{NEW}.base.modules.transformer.Transformer")


def embedding(embedder: DenseEncoder) -> list[Module]:
    """Transformer, pooling and finish. Raises `SettingsError` for what has no counterpart."""
    pooling = embedder.settings.pooling
    mode = MODES.get(type(pooling))
    if mode is None or pooling != type(pooling)() or embedder.settings.layers is not None:
        what = "layers" if mode is not None and embedder.settings.layers is not None else name_of(pooling)
        raise SettingsError(
            f"embed: '{what}' has no counterpart in sentence-transformers; pooling cls, mean (with special tokens) and "
            "weighted over all layers have."
        )
    return [TRANSFORMER, _pooling(embedder.model.settings.width, mode), *_finish(embedder)]


def static(embedder: DenseEncoder) -> list[Module]:
    """A table of vectors, and finish."""
    if embedder.settings.pooling != Mean(include_special_tokens=False):
        raise SettingsError("A model of depth 0 is exported with pooling = 'mean', specials = false.")
    table = {"embedding.weight": embedder.model.encoder.token_embeddings}
    return [Module(f"{OLD}.StaticEmbedding", None, table), *_finish(embedder)]


def sparse() -> list[Module]:
    """Transformer with its masked-language-model head, and log(1 + relu(max))."""
    config = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None}
    return [TASK_TRANSFORMER, Module(f"{NEW}.sparse_encoder.modules.splade_pooling.SpladePooling", config)]


def multivector(encoder: MultiVectorEncoder) -> list[Module]:
    """Transformer, projection of each token, the tokens that count, unit length."""
    weight = encoder.projection.linear.weight.detach().cpu().clone()
    dense: dict[str, Any] = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": False}
    dense |= {"activation_function": IDENTITY, **EACH_TOKEN, "module_output_name": "token_embeddings"}
    skipped = [encoder.tokenizer.piece(number) for number in encoder.skipped_ids.tolist()]
    mask = {"skiplist_words": skipped, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    return [
        TASK_TRANSFORMER,
        Module(f"{NEW}.base.modules.dense.Dense", dense, {"linear.weight": weight}),
        Module(f"{NEW}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", mask),
        Module(f"{NEW}.base.modules.normalize.Normalize", {**EACH_TOKEN, "module_output_name": "token_embeddings"}),
    ]


def ranker(predictor: Predictor, pooling: str, rate: float) -> list[Module]:
    """Transformer, pooling and the head as one or two dense layers; the last one's output is the logit, `rate` folded
    in."""
    width = predictor.model.settings.width
    state = predictor.module.state_dict()
    found = [TASK_TRANSFORMER, _pooling(width, KINDS[pooling])]
    if "head.dense.weight" in state:
        normed = "head.norm.weight" in state
        found.append(_dense(state["head.dense.weight"], state["head.dense.bias"], GELU if normed else TANH))
        if normed:
            norm = {f"norm.{end}": state[f"head.norm.{end}"].detach().cpu().clone() for end in ("weight", "bias")}
            found.append(Module(f"{OLD}.LayerNorm", {"dimension": width}, norm))
    found.append(_dense(state["head.out.weight"] * rate, state["head.out.bias"] * rate, IDENTITY, "scores"))
    return found


def _pooling(width: int, mode: str) -> Module:
    config: dict[str, Any] = {"word_embedding_dimension": width}
    return Module(f"{OLD}.Pooling", config | {f"pooling_mode_{name}": name == mode for name in ALL_MODES})


def _finish(embedder: DenseEncoder) -> list[Module]:
    found: list[Module] = []
    width = embedder.model.settings.width
    for step, state in zip(embedder.postprocessing.steps, embedder.postprocessing.states, strict=True):
        found.append(Module(f"{OLD}.Normalize", {}) if isinstance(step, Normalise) else _linear(step, state, width))
        width = step.output_dim(width)
    return found


def _linear(step: PostProcess, state: State, width: int) -> Module:
    """A linear step as x W^T + b. Raises `SettingsError` for one that is not linear."""
    if not step.is_linear:
        raise SettingsError(
            f"finish = '{name_of(step)}': has no counterpart in sentence-transformers; normalise, truncate, centre and "
            "whiten have."
        )
    weight, bias = step.as_linear(state, width)
    turned, moved = (torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in (weight.T, bias))
    return _dense(turned, moved, IDENTITY)


def _dense(weight: Tensor, bias: Tensor, activation: str, into: str | None = None) -> Module:
    config: dict[str, Any] = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": True}
    config["activation_function"] = activation
    tensors = {"linear.weight": weight.detach().cpu().clone(), "linear.bias": bias.detach().cpu().clone()}
    if into is None:
        return Module(f"{OLD}.Dense", config, tensors)
    config |= {"module_input_name": "sentence_embedding", "module_output_name": into}
    return Module(f"{NEW}.base.modules.dense.Dense", config, tensors)
