"""The DistilBERT format: post-norm and learned positions like BERT's, without segments and pooler. arXiv:1910.01108

Differs from `bert`: config.json names sizes and dropout differently, the eps of norms is always 1e-12, and the head of
a sequence is a dense layer and ReLU over the first hidden state. Models without positions or biases fit too: zeros are
written in their place. Fixed sinusoidal positions are written as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.ffn.mlp import MLP
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._checks import THEIR_ACTIVATIONS, activation_of, check_supported, required_size
from encodery.model.formats._post_norm import post_norm_example, post_norm_incompatibilities
from encodery.model.heads.mlm import MLMHead
from encodery.model.init.normal import NormalInit
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings

NORM_EPS = 1e-12
_POOLED_HEAD = HeadForm(layers={"dense": "pre_classifier", "out": "classifier"}, activation="relu")
_MODULES = {
    "embeddings.word": ("embeddings.word_embeddings",),
    "positions.table": ("embeddings.position_embeddings",),
    "embedding_norm": ("embeddings.LayerNorm",),
}
_BLOCK = {
    "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out": ("attention.out_lin",),
    "attention_norm": ("sa_layer_norm",),
    "ffn.up": ("ffn.lin1",),
    "ffn.down": ("ffn.lin2",),
    "ffn_norm": ("output_layer_norm",),
}
_TABLES = ("embeddings.word", "positions.table")
_LM_HEAD = {
    "heads.mlm.dense.weight": ("vocab_transform.weight",),
    "heads.mlm.dense.bias": ("vocab_transform.bias",),
    "heads.mlm.norm.weight": ("vocab_layer_norm.weight",),
    "heads.mlm.norm.bias": ("vocab_layer_norm.bias",),
    "heads.mlm.bias": ("vocab_projector.bias",),
}


@dataclass(frozen=True, kw_only=True)
class DistilBertFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "distilbert."
    bare_prefixes: ClassVar[tuple[str, ...]] = ("embeddings.", "transformer.layer.")
    unused_tensors: ClassVar[tuple[str, ...]] = ("embeddings.position_ids",)
    decoder_weight: ClassVar[str] = "vocab_projector.weight"
    stock_classes: ClassVar[Mapping[str | None, str]] = {None: "DistilBertModel", "mlm": "DistilBertForMaskedLM"}
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": _POOLED_HEAD,
        "MultipleChoice": _POOLED_HEAD,
        "TokenClassification": HeadForm(layers={"out": "classifier"}),
        "QuestionAnswering": HeadForm(layers={"out": "qa_outputs"}),
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "distilbert"

    def head_in(self, state: State) -> str | None:
        return "mlm" if "vocab_transform.weight" in state else None

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        check_supported(config, width_key="dim", heads_key="n_heads")
        activation = activation_of(config, "activation")
        return ModelSettings(
            width=required_size(config, "dim"),
            depth=required_size(config, "n_layers"),
            heads=required_size(config, "n_heads"),
            intermediate_size=required_size(config, "hidden_dim"),
            vocab_size=required_size(config, "vocab_size"),
            max_length=config.get("max_position_embeddings", 512),
            dropout=config.get("dropout", 0.1),
            positions=LearnedPositions(),
            attention=FullAttention(dropout=config.get("attention_dropout", 0.1)),
            ffn=MLP(activation=activation),
            norm=LayerNorm(eps=NORM_EPS),
            init=NormalInit(std=config.get("initializer_range", 0.02)),
            head=MLMHead(activation=activation, tied=tied) if head else None,
        )

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        reasons, positions = post_norm_incompatibilities(settings, None), settings.positions
        if not isinstance(positions, LearnedPositions | NoPositions | SinusoidalPositions):
            reasons.append(f"positions = '{name_of(positions)}' (needs 'learned', 'sinusoidal' or 'none')")
        elif isinstance(positions, LearnedPositions) and positions.offset:
            reasons.append(f"positions.offset = {positions.offset} (needs 0)")
        if settings.type_vocab_size:
            reasons.append(f"type_vocab_size = {settings.type_vocab_size} (needs 0)")
        if isinstance(settings.norm, LayerNorm) and settings.norm.eps != NORM_EPS:
            reasons.append(f"norm.eps = {settings.norm.eps:g} (needs {NORM_EPS:g})")
        return reasons

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        assert isinstance(settings.ffn, MLP)
        assert isinstance(settings.attention, FullAttention)
        shape = settings.shape
        return {
            "model_type": "distilbert",
            "architectures": [self.stock_classes[settings.head_name]],
            "vocab_size": shape.vocab_size,
            "dim": shape.width,
            "n_layers": shape.depth,
            "n_heads": shape.heads,
            "hidden_dim": shape.intermediate_size,
            "max_position_embeddings": shape.max_length,
            "activation": THEIR_ACTIVATIONS[settings.ffn.activation],
            "dropout": settings.dropout,
            "attention_dropout": settings.attention.dropout,
            "initializer_range": settings.init.std if isinstance(settings.init, NormalInit) else 0.02,
            "sinusoidal_pos_embds": False,
            "tie_word_embeddings": settings.head.tied if isinstance(settings.head, MLMHead) else True,
            "pad_token_id": special.pad,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        modules: TensorNames = {f"encoder.{ours}": theirs for ours, theirs in _MODULES.items()}
        for layer in range(settings.depth):
            for ours, pieces in _BLOCK.items():
                their_names = tuple(f"transformer.layer.{layer}.{piece}" for piece in pieces)
                modules[f"encoder.blocks.{layer}.{ours}"] = their_names
        names: TensorNames = {}
        for ours, theirs in modules.items():
            for end in ("weight",) if ours.endswith(_TABLES) else ("weight", "bias"):
                names[f"{ours}.{end}"] = tuple(f"{self.prefix}{name}.{end}" for name in theirs)
        if isinstance(settings.head, MLMHead):
            names |= _LM_HEAD
            if not settings.head.tied:
                names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
        return names

    def head_config(self, form: HeadForm, *, dropout: float, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        return {"seq_classif_dropout": dropout, "qa_dropout": dropout}

    @staticmethod
    def example() -> ModelSettings:
        return post_norm_example(type_vocab_size=0)
