"""Checks that the formats share: required keys, keys with a single supported value, activations, parts of the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from encodery.base.errors import ArtifactError, SettingsError, nearest
from encodery.base.parts import Part, name_of
from encodery.model.attention.full import FullAttention
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.format_types import Config
from encodery.model.heads.mlm import MLMHead
from encodery.model.norms.layer import LayerNorm
from encodery.model.settings import ModelSettings
from encodery.model.weights import ActivationName

ACTIVATIONS: dict[str, ActivationName] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu_squared",
    "linear": "identity",
}
"""Names of activations in a configuration → ours."""
THEIR_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "is_causal": (False,),
    "causal_mask": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "use_bfloat16": (False,),
}


def check_supported(
    config: Config,
    width_key: str = "hidden_size",
    heads_key: str = "num_attention_heads",
    **supported: tuple[Any, ...],
) -> None:
    """Refuse values that would change what the model computes.

    `width_key`, `heads_key`: the format's names of the width and the number of heads. `supported`: further keys of the
    format and their supported values. Raises `SettingsError` naming the key.
    """
    for key, values in {**_SUPPORTED, **supported}.items():
        value = config.get(key)
        if value is not None and value not in values:
            alternative = f" or {values[0]!r}" if values else ""
            raise SettingsError(f"config.json: {key} = {value!r} is not supported; it must be absent{alternative}.")
    width, heads = required_size(config, width_key), required_size(config, heads_key)
    for key, expected in (("embedding_size", width), ("head_dim", width // heads)):
        if config.get(key) not in (None, expected):
            raise SettingsError(f"config.json: {key} = {config[key]!r} is not supported; it must be {expected}.")
    custom = set(config.get("auto_map") or {}) & {"AutoModel", "AutoModelForMaskedLM"}
    if custom:
        raise SettingsError(
            f"config.json: auto_map names custom code for '{min(custom)}'; only stock classes can be imported."
        )


def required_size(config: Config, key: str) -> int:
    """A size that a configuration must contain. Raises `ArtifactError`."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArtifactError(f"config.json: {key} = {value!r}; it must be a whole number.")
    return value


def activation_of(config: Config, key: str) -> ActivationName:
    """Our name of an activation. Raises `SettingsError` that suggests the nearest known one."""
    name = config.get(key, "gelu")
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise SettingsError(
            f"config.json: {key} = {name!r} is not supported.{nearest(str(name), ACTIVATIONS)} Known: {known}."
        )
    return ACTIVATIONS[name]


def common_incompatibilities(
    settings: ModelSettings,
    parts: Mapping[str, type[Part]],
    head_activation: ActivationName | None = None,
    supported: Collection[str] = (),
) -> list[str]:
    """What keeps a model from a format, as far as all formats agree.

    `parts`: settings of the model → the part that the format has there, beyond those that every format has.
    `head_activation`: that of the masked-language-model head (None: any). `supported`: settings that this format can
    express although most cannot (layer_groups).
    """
    shape, reasons = settings.shape, []
    if settings.extensions:
        reasons.append(f"extensions: {', '.join(name_of(part) for part in settings.extensions)} (needs none)")
    if settings.decoder is not None:
        reasons.append("decoder: the model is an encoder–decoder (needs none)")
    if not settings.embedding_norm:
        reasons.append("embedding_norm = false (needs true)")
    if settings.layers:
        reasons.append("layers: sizes differ between layers (needs equal layers)")
    if settings.layer_groups and "layer_groups" not in supported:
        reasons.append("layer_groups: layers share their weights (needs separate ones)")
    if shape.head_size * shape.heads != shape.width:
        reasons.append(f"head_size = {shape.head_size} (needs width / heads = {shape.width / shape.heads:g})")
    everywhere: dict[str, type[Part]] = {"embeddings": PlainEmbeddings, "attention": FullAttention, "norm": LayerNorm}
    for name, part in {**everywhere, **parts}.items():
        value = getattr(settings, name)
        if not isinstance(value, part):
            reasons.append(f"{name} = '{name_of(value)}' (needs '{name_of(part)}')")
    return reasons + _head_incompatibilities(settings, head_activation)


def _head_incompatibilities(settings: ModelSettings, activation: ActivationName | None) -> list[str]:
    head = settings.head
    if head is None:
        return []
    if not isinstance(head, MLMHead):
        return [f"head = '{name_of(head)}' (needs 'mlm')"]
    reasons = [] if head.transform else ["head.transform = false (needs true)"]
    if activation is not None and head.activation != activation:
        reasons.append(f"head.activation = '{head.activation}' (needs '{activation}')")
    return reasons
