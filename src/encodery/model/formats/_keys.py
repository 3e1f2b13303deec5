"""What the doors share in reading configurations: needed keys, keys that must stay neutral, activations by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.errors import ArtifactError, SettingsError, nearest
from encodery.base.parts import name_of
from encodery.model.attention.full import FullAttention
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.network import ModelSettings
from encodery.model.norms.layer import LayerNorm
from encodery.model.weights import ActivationName

Config = Mapping[str, Any]

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
THEIR_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "is_causal": (False,),
    "causal_mask": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "use_bfloat16": (False,),
}


def check_neutral(config: Config, **more: tuple[Any, ...]) -> None:
    """Refuse values that would change what the model computes; `more` are the layout's own keys and allowed values.

    Raises `SettingsError` naming the key.
    """
    for key, allowed in {**_NEUTRAL, **more}.items():
        value = config.get(key)
        if value is not None and value not in allowed:
            wanted = f" or {allowed[0]!r}" if allowed else ""
            raise SettingsError(f"config.json: {key} = {value!r} is not supported; it must be absent{wanted}.")
    width, heads = required_size(config, "hidden_size"), required_size(config, "num_attention_heads")
    for key, fitting in (("embedding_size", width), ("head_dim", width // heads)):
        if config.get(key) not in (None, fitting):
            raise SettingsError(f"config.json: {key} = {config[key]!r} is not supported; it must be {fitting}.")
    own_code = set(config.get("auto_map") or {}) & {"AutoModel", "AutoModelForMaskedLM"}
    if own_code:
        raise SettingsError(
            f"config.json: auto_map gives '{min(own_code)}' code of its own; only stock layouts can be imported."
        )


def required_size(config: Config, key: str) -> int:
    """A size that a configuration must give. Raises `ArtifactError`."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArtifactError(f"config.json: {key} = {value!r}; a whole number is needed.")
    return value


def activation_of(config: Config, key: str) -> ActivationName:
    """Our name of an activation. Raises `SettingsError` with the nearest known."""
    name = config.get(key, "gelu")
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise SettingsError(
            f"config.json: {key} = {name!r} is not supported.{nearest(str(name), ACTIVATIONS)} Known: {known}."
        )
    return ACTIVATIONS[name]


def common_incompatibilities(settings: ModelSettings) -> list[str]:
    """What no stock layout can hold."""
    shape, found = settings.shape, []
    if not isinstance(settings.embeddings, PlainEmbeddings):
        found.append(f"embeddings = '{name_of(settings.embeddings)}' (needs 'plain')")
    if settings.extensions:
        found.append(f"extensions: {', '.join(name_of(insert) for insert in settings.extensions)} (needs none)")
    if not settings.embedding_norm:
        found.append("embedding_norm = false (needs true)")
    if not isinstance(settings.attention, FullAttention):
        found.append(f"attention = '{name_of(settings.attention)}' (needs 'full')")
    if shape.head_size * shape.heads != shape.width:
        found.append(f"head_size = {shape.head_size} (needs width / heads = {shape.width / shape.heads:g})")
    if not isinstance(settings.norm, LayerNorm):
        found.append(f"norm = '{name_of(settings.norm)}' (needs 'layer')")
    return found
