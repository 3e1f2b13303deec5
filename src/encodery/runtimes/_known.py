"""Which parts of a model an engine of fixed operations knows, said before it takes the model."""

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
"""Those of every such engine, by their place in the settings."""


def require_supported(
    settings: ModelSettings,
    engine: str,
    activations: Sequence[str],
    extra_parts: Mapping[str, PartTypes] = MappingProxyType({}),
) -> None:
    """Raises `SettingsError` naming the first part that `door` has not; `more`: what it has beyond `PARTS`."""
    for place, kinds in PARTS.items():
        part: Part = getattr(settings, place)
        allowed = (*kinds, *extra_parts.get(place, ()))
        if type(part) not in allowed:
            names = ", ".join(name_of(one) for one in allowed)
            raise SettingsError(f"{place} = '{name_of(part)}': {engine} has only {names}. Use the runtime 'torch'.")
    ffn: Any = settings.ffn
    if ffn.activation not in activations:
        names = ", ".join(activations)
        raise SettingsError(f"ffn.activation = '{ffn.activation}': {engine} has only {names}. Use the runtime 'torch'.")
    if settings.extensions:
        raise SettingsError(f"extensions: {engine} runs none. Merge them into the weights, or use the runtime 'torch'.")
