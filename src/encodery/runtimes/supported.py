"""Which parts of a model an engine of fixed operations supports, checked before it takes the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.post import PostNorm
from encodery.model.blocks.pre import PreNorm
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mlp import MLP
from encodery.model.masks.document import DocumentMask
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings

PartTypes = tuple[type[Part], ...]
PARTS: dict[str, PartTypes] = {
    "embeddings": (PlainEmbeddings,),
    "positions": (LearnedPositions, NoPositions),
    "attention": (FullAttention,),
    "mask": (DocumentMask,),
    "ffn": (MLP, GLU),
    "norm": (LayerNorm,),
    "block": (PostNorm, PreNorm),
}
"""The parts that every such engine supports, by the name of the setting."""


def require_supported(
    settings: ModelSettings,
    engine: str,
    activations: Sequence[str],
    extra_parts: Mapping[str, PartTypes] = MappingProxyType({}),
) -> None:
    """Raise `SettingsError` that names the first part which `engine` does not support.

    `extra_parts`: what it supports besides `PARTS`.
    """
    for name, types in PARTS.items():
        part: Part = getattr(settings, name)
        allowed = (*types, *extra_parts.get(name, ()))
        if type(part) not in allowed:
            known = ", ".join(map(name_of, allowed))
            raise SettingsError(f"{name} = '{name_of(part)}': {engine} supports only {known}. Use the runtime 'torch'.")
    ffn: Any = settings.ffn
    if ffn.activation not in activations:
        raise SettingsError(
            f"ffn.activation = '{ffn.activation}': {engine} supports only {', '.join(activations)}. "
            "Use the runtime 'torch'."
        )
    if settings.extensions:
        raise SettingsError(
            f"extensions: {engine} supports none. Merge them into the weights, or use the runtime 'torch'."
        )
