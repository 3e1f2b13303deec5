"""The ModernBERT format: pre-norm, rotary positions, GLU, local layers between global ones. arXiv:2412.13663

Two generations of config.json are read: `global_attn_every_n_layers`, `global_rope_theta`, `local_rope_theta`
(absent: 10000; null or -1: that of the global layers), and `layer_types`, `rope_parameters`; both are written.
`local_attention` is the whole window: our half-width is half of it, rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.ffn.glu import GLU
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
from encodery.model.formats import CheckpointFormat
from encodery.model.formats._checks import (
    THEIR_ACTIVATIONS,
    activation_of,
    check_supported,
    common_incompatibilities,
    required_size,
)
from encodery.model.heads.mlm import MLMHead
from encodery.model.init.normal import NormalInit
from encodery.model.masks import Mask
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.masks.document import DocumentMask
from encodery.model.masks.pattern import PatternMask
from encodery.model.masks.window import WindowMask
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings

GLOBAL, LOCAL = "full_attention", "sliding_attention"

_DEFAULT_NORM_EPS = 1e-5
_LAYERS = {"dense": "head.dense", "norm": "head.norm", "out": "classifier"}
_HEAD = HeadForm(layers=_LAYERS, activation="gelu", norm_eps=_DEFAULT_NORM_EPS)


@dataclass(frozen=True, kw_only=True)
class ModernBertFormat(CheckpointFormat):
    """Has no settings."""

    prefix: ClassVar[str] = "model."
    bare_prefixes: ClassVar[tuple[str, ...]] = ("embeddings.", "layers.", "final_norm.")
    unused_tensors: ClassVar[tuple[str, ...]] = ("rotary_emb.",)
    decoder_weight: ClassVar[str] = "decoder.weight"
    stock_classes: ClassVar[Mapping[str | None, str]] = {None: "ModernBertModel", "mlm": "ModernBertForMaskedLM"}
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = {
        "SequenceClassification": _HEAD,
        "MultipleChoice": _HEAD,
        "TokenClassification": _HEAD,
        "QuestionAnswering": _HEAD,
    }

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "modernbert"

    def head_in(self, state: State) -> str | None:
        return "mlm" if "head.dense.weight" in state and "classifier.weight" not in state else None

    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        check_supported(config)
        theta, local_theta = _thetas(config)
        return ModelSettings(
            width=required_size(config, "hidden_size"),
            depth=required_size(config, "num_hidden_layers"),
            heads=required_size(config, "num_attention_heads"),
            intermediate_size=required_size(config, "intermediate_size"),
            vocab_size=required_size(config, "vocab_size"),
            max_length=config.get("max_position_embeddings", 8192),
            dropout=float(config.get("embedding_dropout", 0.0)),
            positions=RotaryPositions(theta=theta, local_theta=local_theta),
            attention=_attention(config),
            mask=_mask(config),
            ffn=_ffn(config),
            norm=LayerNorm(eps=config.get("norm_eps", _DEFAULT_NORM_EPS), bias=config.get("norm_bias", False)),
            block=PreNorm(first_norm=False),
            init=NormalInit(
                std=config.get("initializer_range", 0.02), cutoff=config.get("initializer_cutoff_factor", 2.0)
            ),
            head=_lm_head(config, tied) if head else None,
        )

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        reasons = common_incompatibilities(settings, {"positions": RotaryPositions, "ffn": GLU, "block": PreNorm})
        if settings.type_vocab_size:
            reasons.append(f"type_vocab_size = {settings.type_vocab_size} (needs 0)")
        if isinstance(settings.block, PreNorm) and settings.block.first_norm:
            reasons.append("block.first_norm = true (needs false)")
        sizes = _window_sizes(settings)
        if not all(reach.is_window for reach in _reaches(settings)):
            reasons.append(f"mask = '{name_of(settings.mask)}' (needs symmetric windows)")
        elif len(sizes) > 1:
            reasons.append(f"mask: windows of {', '.join(map(str, sizes))} (needs one size)")
        return reasons

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        assert isinstance(settings.attention, FullAttention)
        assert isinstance(settings.ffn, GLU)
        assert isinstance(settings.norm, LayerNorm)
        shape, head = settings.shape, settings.head if isinstance(settings.head, MLMHead) else MLMHead()
        return {
            "model_type": "modernbert",
            "architectures": [self.stock_classes[settings.head_name]],
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.intermediate_size,
            "max_position_embeddings": shape.max_length,
            "hidden_activation": THEIR_ACTIVATIONS[settings.ffn.activation],
            **_attention_config(settings),
            "attention_bias": settings.attention.bias or settings.attention.bias_out,
            "mlp_bias": settings.ffn.bias or settings.ffn.bias_out,
            "norm_bias": settings.norm.bias,
            "norm_eps": settings.norm.eps,
            "classifier_activation": THEIR_ACTIVATIONS[head.activation],
            "classifier_bias": head.dense_bias,
            "decoder_bias": head.bias,
            "tie_word_embeddings": head.tied,
            "embedding_dropout": settings.dropout,
            "mlp_dropout": settings.dropout,
            "attention_dropout": settings.attention.dropout,
            **_init_config(settings),
            "pad_token_id": special.pad,
            "bos_token_id": special.cls,
            "cls_token_id": special.cls,
            "eos_token_id": special.sep,
            "sep_token_id": special.sep,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        prefix = self.prefix
        names: TensorNames = {"encoder.embeddings.word.weight": (f"{prefix}embeddings.tok_embeddings.weight",)}
        modules = [("encoder.embedding_norm", f"{prefix}embeddings.norm", "norm_bias")]
        for i in range(settings.depth):
            ours, theirs = f"encoder.blocks.{i}", f"{prefix}layers.{i}"
            modules += [(f"{ours}.attention_norm", f"{theirs}.attn_norm", "norm_bias")] if i else []
            modules += [
                (f"{ours}.attention.qkv", f"{theirs}.attn.Wqkv", "attention_bias"),
                (f"{ours}.attention.out", f"{theirs}.attn.Wo", "attention_bias"),
                (f"{ours}.ffn_norm", f"{theirs}.mlp_norm", "norm_bias"),
                (f"{ours}.ffn.up", f"{theirs}.mlp.Wi", "mlp_bias"),
                (f"{ours}.ffn.down", f"{theirs}.mlp.Wo", "mlp_bias"),
            ]
        modules.append(("encoder.final_norm", f"{prefix}final_norm", "norm_bias"))
        if isinstance(settings.head, MLMHead):
            modules.append(("heads.mlm.dense", "head.dense", "classifier_bias"))
            modules.append(("heads.mlm.norm", "head.norm", "norm_bias"))
        for ours, theirs, bias_key in modules:
            names[f"{ours}.weight"] = (f"{theirs}.weight",)
            if config.get(bias_key, False):
                names[f"{ours}.bias"] = (f"{theirs}.bias",)
        if isinstance(settings.head, MLMHead) and config.get("decoder_bias", True):
            names["heads.mlm.bias"] = ("decoder.bias",)
        if isinstance(settings.head, MLMHead) and not settings.head.tied:
            names["heads.mlm.decoder.weight"] = (self.decoder_weight,)
        return names

    def head_form(self, kind: HeadKind, config: Config) -> HeadForm:
        return HeadForm(
            layers=super().head_form(kind, config).layers,
            pooling=config.get("classifier_pooling", "cls"),
            activation=config.get("classifier_activation", "gelu"),
            norm_eps=config.get("norm_eps", _DEFAULT_NORM_EPS),
        )

    def head_config(self, form: HeadForm, *, dropout: float, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        return {
            **super().head_config(form, dropout=dropout, dense_bias=dense_bias, norm_bias=norm_bias),
            "classifier_pooling": form.pooling,
            "classifier_activation": form.activation,
            "classifier_bias": dense_bias,
            "norm_bias": norm_bias,
        }

    @staticmethod
    def example() -> ModelSettings:
        return ModelSettings(
            width=16,
            depth=3,
            heads=2,
            intermediate_size=20,
            vocab_size=64,
            max_length=32,
            positions=RotaryPositions(theta=500.0, local_theta=50.0),
            attention=FullAttention(bias=False, bias_out=False),
            mask=AlternatingMask(size=4, every=2),
            ffn=GLU(bias=False, bias_out=False),
            norm=LayerNorm(eps=_DEFAULT_NORM_EPS, bias=False),
            block=PreNorm(first_norm=False),
            init=NormalInit(cutoff=2.0),
            head=MLMHead(dense_bias=False),
        )


def _attention(config: Config) -> FullAttention:
    bias = bool(config.get("attention_bias", False))
    return FullAttention(bias=bias, bias_out=bias, dropout=float(config.get("attention_dropout", 0.0)))


def _ffn(config: Config) -> GLU:
    bias = bool(config.get("mlp_bias", False))
    return GLU(activation=activation_of(config, "hidden_activation"), bias=bias, bias_out=bias)


def _lm_head(config: Config, tied: bool) -> MLMHead:
    return MLMHead(
        activation=activation_of(config, "classifier_activation"),
        dense_bias=bool(config.get("classifier_bias", False)),
        bias=bool(config.get("decoder_bias", True)),
        tied=tied,
    )


def _init_config(settings: ModelSettings) -> dict[str, float]:
    """Keys of the initialisation, which matter only to training from scratch."""
    init = settings.init if isinstance(settings.init, NormalInit) else NormalInit()
    return {"initializer_range": init.std} | ({} if init.cutoff is None else {"initializer_cutoff_factor": init.cutoff})


def _thetas(config: Config) -> tuple[float, float | None]:
    """Theta of the global layers, and of the local ones (None: the same)."""
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling")
    if scaling is not None:
        raise SettingsError(f"config.json: rope_scaling = {scaling!r} is not supported; it must be absent.")
    for kind in (GLOBAL, LOCAL):
        table = rope.get(kind) or {}
        if table.get("rope_type", "default") != "default":
            raise SettingsError(
                f"config.json: rope_parameters.{kind}.rope_type = {table['rope_type']!r}; only 'default' is supported."
            )
        if table.get("partial_rotary_factor", 1.0) != 1.0:
            raise SettingsError(f"config.json: rope_parameters.{kind}.partial_rotary_factor must be 1.")
    theta = (rope.get(GLOBAL) or {}).get("rope_theta", config.get("global_rope_theta", 160_000.0))
    local = (rope.get(LOCAL) or {}).get("rope_theta", config.get("local_rope_theta", 10_000.0))
    if not isinstance(theta, int | float) or theta <= 0:
        raise SettingsError(f"config.json: the rotary theta of global layers is {theta!r}; it must be positive.")
    if local is None or local < 0 or local == theta:
        return float(theta), None
    return float(theta), float(local)


def _mask(config: Config) -> Mask:
    """The simplest mask part that gives the configured layer types."""
    depth, size = required_size(config, "num_hidden_layers"), config.get("local_attention", 128) // 2
    every = config.get("global_attn_every_n_layers", 3)
    types = config.get("layer_types")
    if types is None:
        return AlternatingMask(size=size, every=every) if every > 1 else DocumentMask()
    if len(types) != depth or not set(types) <= {GLOBAL, LOCAL}:
        raise SettingsError(
            f"config.json: layer_types must have {depth} entries, each '{GLOBAL}' or '{LOCAL}'; it is {types!r}."
        )
    global_layers = tuple(i for i, kind in enumerate(types) if kind == GLOBAL)
    if len(global_layers) == depth:
        return DocumentMask()
    if not global_layers:
        return WindowMask(size=size)
    for step in (every, *range(2, depth + 1)):
        if global_layers == tuple(range(0, depth, step)):
            return AlternatingMask(size=size, every=step)
    return PatternMask(size=size, global_layers=global_layers)


def _reaches(settings: ModelSettings) -> list[Reach]:
    return [settings.mask.reach(layer, settings.depth) for layer in range(settings.depth)]


def _windows(settings: ModelSettings) -> list[int | None]:
    """Half-width of each layer's window; None for a global layer."""
    return [reach.left for reach in _reaches(settings)]


def _window_sizes(settings: ModelSettings) -> list[int]:
    """The different half-widths of the local layers."""
    return sorted({size for size in _windows(settings) if size is not None})


def _attention_config(settings: ModelSettings) -> dict[str, Any]:
    """Keys of windows and rotary angles, of both generations where the older one can express them."""
    assert isinstance(settings.positions, RotaryPositions)
    windows, theta = _windows(settings), settings.positions.theta
    local_theta = theta if settings.positions.local_theta is None else settings.positions.local_theta
    table: dict[str, Any] = {
        "local_attention": 2 * (_window_sizes(settings) or [64])[0],
        "layer_types": [GLOBAL if size is None else LOCAL for size in windows],
        "rope_parameters": {
            GLOBAL: {"rope_type": "default", "rope_theta": theta},
            LOCAL: {"rope_type": "default", "rope_theta": local_theta},
        },
        "global_rope_theta": theta,
        "local_rope_theta": local_theta,
    }
    global_layers = [i for i, size in enumerate(windows) if size is None]
    for every in range(1, settings.depth + 2):
        if global_layers == list(range(0, settings.depth, every)):
            return {**table, "global_attn_every_n_layers": every}
    return table
