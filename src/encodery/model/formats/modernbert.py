"""The ModernBERT layout: pre-norm, rotary positions, GLU, local layers between global ones. arXiv:2412.13663

Two generations of config.json are read: `global_attn_every_n_layers`, `global_rope_theta`, `local_rope_theta`
(absent: 10000; null or -1: that of global layers) and `layer_types`, `rope_parameters`; both are written.
`local_attention` is the whole window: our half-width is half of it, rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.ffn.glu import GLU
from encodery.model.formats import CheckpointFormat, Config, SpecialTokenIds, State, TensorNames
from encodery.model.formats._keys import (
    THEIR_ACTIVATIONS,
    activation_of,
    check_neutral,
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
from encodery.model.network import ModelSettings
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.rotary import RotaryPositions

FULL, LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class ModernBertFormat(CheckpointFormat):
    """No settings."""

    prefix: ClassVar[str] = "model."
    bare_prefixes: ClassVar[tuple[str, ...]] = ("embeddings.", "layers.", "final_norm.")
    unused_tensors: ClassVar[tuple[str, ...]] = ("rotary_emb.",)
    decoder_weight: ClassVar[str] = "decoder.weight"
    stock_classes: ClassVar[tuple[str, str]] = ("ModernBertModel", "ModernBertForMaskedLM")

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "modernbert"

    def has_head(self, state: State) -> bool:
        return "head.dense.weight" in state and "classifier.weight" not in state

    def read_config(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        check_neutral(config)
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
            norm=LayerNorm(eps=config.get("norm_eps", 1e-5), bias=config.get("norm_bias", False)),
            block=PreNorm(first_norm=False),
            init=NormalInit(
                std=config.get("initializer_range", 0.02), cutoff=config.get("initializer_cutoff_factor", 2.0)
            ),
            head=_head(config, tied) if head else None,
        )

    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        found = common_incompatibilities(settings)
        if settings.type_vocab_size:
            found.append(f"segments = {settings.type_vocab_size} (needs 0)")
        for value, part, name in (
            (settings.positions, RotaryPositions, "positions"),
            (settings.ffn, GLU, "ffn"),
            (settings.block, PreNorm, "block"),
        ):
            if not isinstance(value, part):
                found.append(f"{name} = '{name_of(value)}' (needs '{name_of(part)}')")
        if isinstance(settings.block, PreNorm) and settings.block.first_norm:
            found.append("block.first_norm = true (needs false)")
        if len(_sizes(settings)) > 1:
            found.append(f"mask: windows of {', '.join(map(str, _sizes(settings)))} (needs one size)")
        if isinstance(settings.head, MLMHead):
            if not settings.head.transform:
                found.append("head.transform = false (needs true)")
        elif settings.head is not None:
            found.append(f"head = '{name_of(settings.head)}' (needs 'mlm')")
        return found

    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        assert isinstance(settings.attention, FullAttention)
        assert isinstance(settings.ffn, GLU)
        assert isinstance(settings.norm, LayerNorm)
        shape, head = settings.shape, settings.head if isinstance(settings.head, MLMHead) else MLMHead()
        return {
            "model_type": "modernbert",
            "architectures": [self.stock_classes[settings.head is not None]],
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.width,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.intermediate_size,
            "max_position_embeddings": shape.max_length,
            "hidden_activation": THEIR_ACTIVATIONS[settings.ffn.activation],
            **_reach(settings),
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
            **_spread(settings),
            "pad_token_id": special.pad,
            "bos_token_id": special.cls,
            "cls_token_id": special.cls,
            "eos_token_id": special.sep,
            "sep_token_id": special.sep,
        }

    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        p = self.prefix
        found: TensorNames = {"encoder.embeddings.word.weight": (f"{p}embeddings.tok_embeddings.weight",)}
        pairs = [("encoder.embedding_norm", f"{p}embeddings.norm", "norm_bias")]
        for i in range(settings.depth):
            mine, theirs = f"encoder.blocks.{i}", f"{p}layers.{i}"
            pairs += [(f"{mine}.attention_norm", f"{theirs}.attn_norm", "norm_bias")] if i else []
            pairs += [
                (f"{mine}.attention.qkv", f"{theirs}.attn.Wqkv", "attention_bias"),
                (f"{mine}.attention.out", f"{theirs}.attn.Wo", "attention_bias"),
                (f"{mine}.ffn_norm", f"{theirs}.mlp_norm", "norm_bias"),
                (f"{mine}.ffn.up", f"{theirs}.mlp.Wi", "mlp_bias"),
                (f"{mine}.ffn.down", f"{theirs}.mlp.Wo", "mlp_bias"),
            ]
        pairs.append(("encoder.final_norm", f"{p}final_norm", "norm_bias"))
        if isinstance(settings.head, MLMHead):
            pairs.append(("heads.mlm.dense", "head.dense", "classifier_bias"))
            pairs.append(("heads.mlm.norm", "head.norm", "norm_bias"))
        for mine, theirs, flag in pairs:
            found[f"{mine}.weight"] = (f"{theirs}.weight",)
            if config.get(flag, False):
                found[f"{mine}.bias"] = (f"{theirs}.bias",)
        if isinstance(settings.head, MLMHead) and config.get("decoder_bias", True):
            found["heads.mlm.bias"] = ("decoder.bias",)
        if isinstance(settings.head, MLMHead) and not settings.head.tied:
            found["heads.mlm.decoder.weight"] = (self.decoder_weight,)
        return found


def _attention(config: Config) -> FullAttention:
    bias = bool(config.get("attention_bias", False))
    return FullAttention(bias=bias, bias_out=bias, dropout=float(config.get("attention_dropout", 0.0)))


def _ffn(config: Config) -> GLU:
    bias = bool(config.get("mlp_bias", False))
    return GLU(activation=activation_of(config, "hidden_activation"), bias=bias, bias_out=bias)


def _head(config: Config, tied: bool) -> MLMHead:
    return MLMHead(
        activation=activation_of(config, "classifier_activation"),
        dense_bias=bool(config.get("classifier_bias", False)),
        bias=bool(config.get("decoder_bias", True)),
        tied=tied,
    )


def _spread(settings: ModelSettings) -> dict[str, float]:
    """Keys of the initialisation, which only training anew would read."""
    init = settings.init if isinstance(settings.init, NormalInit) else NormalInit()
    return {"initializer_range": init.std} | ({} if init.cutoff is None else {"initializer_cutoff_factor": init.cutoff})


def _thetas(config: Config) -> tuple[float, float | None]:
    """Theta of global and of local layers (None: the same)."""
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling")
    if scaling is not None:
        raise SettingsError(f"config.json: rope_scaling = {scaling!r} is not supported; it must be absent.")
    for kind in (FULL, LOCAL):
        found = rope.get(kind) or {}
        if found.get("rope_type", "default") != "default":
            raise SettingsError(
                f"config.json: rope_parameters.{kind}.rope_type = {found['rope_type']!r}; only 'default' is supported."
            )
        if found.get("partial_rotary_factor", 1.0) != 1.0:
            raise SettingsError(f"config.json: rope_parameters.{kind}.partial_rotary_factor must be 1.")
    whole = (rope.get(FULL) or {}).get("rope_theta", config.get("global_rope_theta", 160_000.0))
    local = (rope.get(LOCAL) or {}).get("rope_theta", config.get("local_rope_theta", 10_000.0))
    if not isinstance(whole, int | float) or whole <= 0:
        raise SettingsError(f"config.json: the rotary theta of global layers is {whole!r}; it must be positive.")
    if local is None or local < 0 or local == whole:
        return float(whole), None
    return float(whole), float(local)


def _mask(config: Config) -> Mask:
    """The mask of a list of layer types, as the plainest part that says the same."""
    depth, size = required_size(config, "num_hidden_layers"), config.get("local_attention", 128) // 2
    every = config.get("global_attn_every_n_layers", 3)
    types = config.get("layer_types")
    if types is None:
        return AlternatingMask(size=size, every=every) if every > 1 else DocumentMask()
    if len(types) != depth or not set(types) <= {FULL, LOCAL}:
        raise SettingsError(f"config.json: layer_types must be {depth} of '{FULL}' and '{LOCAL}', not {types!r}.")
    whole = tuple(i for i, kind in enumerate(types) if kind == FULL)
    if len(whole) == depth:
        return DocumentMask()
    if not whole:
        return WindowMask(size=size)
    for step in (every, *range(2, depth + 1)):
        if whole == tuple(range(0, depth, step)):
            return AlternatingMask(size=size, every=step)
    return PatternMask(size=size, global_layers=whole)


def _windows(settings: ModelSettings) -> list[int | None]:
    return [settings.mask.window(layer, settings.depth) for layer in range(settings.depth)]


def _sizes(settings: ModelSettings) -> list[int]:
    """The different half-widths of local layers."""
    return sorted({size for size in _windows(settings) if size is not None})


def _reach(settings: ModelSettings) -> dict[str, Any]:
    """Keys of windows and angles, of both generations where the older one can say it."""
    assert isinstance(settings.positions, RotaryPositions)
    windows, theta = _windows(settings), settings.positions.theta
    local_theta = theta if settings.positions.local_theta is None else settings.positions.local_theta
    found: dict[str, Any] = {
        "local_attention": 2 * (_sizes(settings) or [64])[0],
        "layer_types": [FULL if size is None else LOCAL for size in windows],
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": theta},
            LOCAL: {"rope_type": "default", "rope_theta": local_theta},
        },
        "global_rope_theta": theta,
        "local_rope_theta": local_theta,
    }
    whole = [i for i, size in enumerate(windows) if size is None]
    for every in range(1, settings.depth + 2):
        if whole == list(range(0, settings.depth, every)):
            return {**found, "global_attn_every_n_layers": every}
    return found
