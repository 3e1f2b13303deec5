"""Our models as modules of sentence-transformers: class, config.json and weights of each.

Shapes: H width of the model, K dimension of an embedding.
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
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.static import StaticEncoder
from encodery.finetune.predict import Predictor

OLD, NEW = "sentence_transformers.models", "sentence_transformers"
"""Packages of the modules; every version reads the old names."""
POOLING_MODES: dict[type[Pooling], str] = {Mean: "mean_tokens", CLS: "cls_token", Weighted: "weightedmean_tokens"}
RANKER_POOLING_MODES = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
ALL_POOLING_MODES = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
)
EACH_TOKEN = {"module_input_name": "token_embeddings"}
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
GELU = "torch.nn.modules.activation.GELU"


class Module(NamedTuple):
    """`type` is the class, `config` its config.json (None: it has none), `tensors` its weights."""

    type: str
    config: dict[str, Any] | None = None
    tensors: dict[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """The name of the class without its package."""
        return self.type.rsplit(".", 1)[-1]


TRANSFORMER = Module(f"{OLD}.Transformer")
TASK_TRANSFORMER = Module(f"{NEW}.base.modules.transformer.Transformer")


def dense(encoder: DenseEncoder) -> list[Module]:
    """Transformer, pooling and post-processing. Raises `SettingsError` for what has no counterpart."""
    pooling = encoder.settings.pooling
    mode = POOLING_MODES.get(type(pooling))
    if mode is None or pooling != type(pooling)() or encoder.settings.layers is not None:
        value = "layers" if mode is not None and encoder.settings.layers is not None else name_of(pooling)
        raise SettingsError(
            f"dense: '{value}' has no counterpart in sentence-transformers; the poolings cls, mean (including special "
            "tokens) and weighted over all layers have one."
        )
    return [TRANSFORMER, _pooling(encoder.model.settings.width, mode), *_postprocess(encoder)]


def static(encoder: StaticEncoder) -> list[Module]:
    """A table of token embeddings, and post-processing."""
    table = {"embedding.weight": encoder.model.encoder.token_embeddings}
    return [Module(f"{OLD}.StaticEmbedding", None, table), *_postprocess(encoder)]


def sparse() -> list[Module]:
    """Transformer with its masked-language-model head, and log(1 + relu(max))."""
    config = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None}
    return [TASK_TRANSFORMER, Module(f"{NEW}.sparse_encoder.modules.splade_pooling.SpladePooling", config)]


def multi_vector(encoder: MultiVectorEncoder) -> list[Module]:
    """Transformer, projection of each token, mask of skipped tokens, normalisation."""
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


def ranker(predictor: Predictor, pooling: str, lr_scale: float) -> list[Module]:
    """Transformer, pooling, and the head as one or two dense layers; the last one gives the logit, with `lr_scale`
    folded into its weights."""
    width = predictor.model.settings.width
    state = predictor.module.state_dict()
    modules = [TASK_TRANSFORMER, _pooling(width, RANKER_POOLING_MODES[pooling])]
    if "head.dense.weight" in state:
        normed = "head.norm.weight" in state
        modules.append(_dense_layer(state["head.dense.weight"], state["head.dense.bias"], GELU if normed else TANH))
        if normed:
            norm = {f"norm.{end}": state[f"head.norm.{end}"].detach().cpu().clone() for end in ("weight", "bias")}
            modules.append(Module(f"{OLD}.LayerNorm", {"dimension": width}, norm))
    modules.append(
        _dense_layer(state["head.out.weight"] * lr_scale, state["head.out.bias"] * lr_scale, IDENTITY, "scores")
    )
    return modules


def _pooling(width: int, mode: str) -> Module:
    config: dict[str, Any] = {"word_embedding_dimension": width}
    return Module(f"{OLD}.Pooling", config | {f"pooling_mode_{name}": name == mode for name in ALL_POOLING_MODES})


def _postprocess(encoder: SingleVectorEncoder) -> list[Module]:
    modules: list[Module] = []
    width = encoder.model.settings.width
    for step, state in zip(encoder.postprocessing.steps, encoder.postprocessing.states, strict=True):
        modules.append(Module(f"{OLD}.Normalize", {}) if isinstance(step, Normalise) else _linear(step, state, width))
        width = step.output_dim(width)
    return modules


def _linear(step: PostProcess, state: State, width: int) -> Module:
    """A linear step as x W^T + b. Raises `SettingsError` for one that is not linear."""
    if not step.is_linear:
        raise SettingsError(
            f"postprocess = '{name_of(step)}': has no counterpart in sentence-transformers; normalise, truncate, "
            "centre and whiten have one."
        )
    weight, bias = step.as_linear(state, width)
    new_weight, new_bias = (torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in (weight.T, bias))
    return _dense_layer(new_weight, new_bias, IDENTITY)


def _dense_layer(weight: Tensor, bias: Tensor, activation: str, output_name: str | None = None) -> Module:
    """A linear map of the sentence embedding; its output replaces the embedding, or is called `output_name`."""
    config: dict[str, Any] = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": True}
    config["activation_function"] = activation
    tensors = {"linear.weight": weight.detach().cpu().clone(), "linear.bias": bias.detach().cpu().clone()}
    if output_name is None:
        return Module(f"{OLD}.Dense", config, tensors)
    config |= {"module_input_name": "sentence_embedding", "module_output_name": output_name}
    return Module(f"{NEW}.base.modules.dense.Dense", config, tensors)
