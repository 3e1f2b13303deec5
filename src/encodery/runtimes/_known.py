"""Which parts of a model an engine of fixed operations knows, said before it takes the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.model.attention.full import Full
from encodery.model.blocks.post import Post
from encodery.model.blocks.pre import Pre
from encodery.model.embeddings.plain import Plain
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mlp import MLP
from encodery.model.masks.document import Document
from encodery.model.network import ModelSettings
from encodery.model.norms.layer import Layer
from encodery.model.positions.learned import Learned
from encodery.model.positions.none import Nothing

Kinds = tuple[type[Part], ...]
PARTS: dict[str, Kinds] = {
    "embeddings": (Plain,),
    "positions": (Learned, Nothing),
    "attention": (Full,),
    "mask": (Document,),
    "ffn": (MLP, GLU),
    "norm": (Layer,),
    "block": (Post, Pre),
}
"""Those of every such engine, by their place in the settings."""


def refuse(
    settings: ModelSettings, door: str, activations: Sequence[str], more: Mapping[str, Kinds] = MappingProxyType({})
) -> None:
    """Raises `SettingsError` naming the first part that `door` has not; `more`: what it has beyond `PARTS`."""
    for place, kinds in PARTS.items():
        part: Part = getattr(settings, place)
        allowed = (*kinds, *more.get(place, ()))
        if type(part) not in allowed:
            names = ", ".join(name_of(one) for one in allowed)
            raise SettingsError(f"{place} = '{name_of(part)}': {door} has only {names}. Use the runtime 'torch'.")
    ffn: Any = settings.ffn
    if ffn.activation not in activations:
        names = ", ".join(activations)
        raise SettingsError(f"ffn.activation = '{ffn.activation}': {door} has only {names}. Use the runtime 'torch'.")
    if settings.inserts:
        raise SettingsError(f"inserts: {door} runs none. Merge them into the weights, or use the runtime 'torch'.")
