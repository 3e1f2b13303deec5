"""The encoder that a model was trained as. The folder is the registry: a kind is the name of its module, and the
settings of an encoder are stored with a model under the name of its kind."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import encodery.encoders
from encodery.base.errors import UnknownName, nearest
from encodery.encoders.model_encoder import ModelEncoder

if TYPE_CHECKING:
    import torch

    from encodery.model.load import LoadedModel

DEFAULT_KIND = "dense"


def kind_of(settings: Mapping[str, Any]) -> str:
    """The kind of embeddings of a model by its stored settings: dense unless those of another kind are there."""
    return next((name for name in _modules() if name in settings and name != DEFAULT_KIND), DEFAULT_KIND)


@functools.cache
def kinds() -> list[str]:
    """The kinds of embeddings that a model can be trained for, by the modules of the folder."""
    return [name for name in _modules() if any(cls.kind == name for cls in _encoders(name))]


def encoder_class(kind: str) -> type[ModelEncoder]:
    """The encoder of a kind. Raises `UnknownName` with the nearest kind."""
    if kind not in kinds():
        known = kinds()
        raise UnknownName(f"There is no encoder '{kind}'.{nearest(kind, known)} Known: {', '.join(known)}.")
    return _encoders(kind)[0]


def load_encoder(loaded: LoadedModel, device: torch.device | str | None = None) -> ModelEncoder:
    """The encoder of a loaded model, of the kind that it was trained for (dense if it was trained for none).

    Raises `ArtifactError` if the stored golden embeddings are no longer computed.
    """
    return encoder_class(kind_of(loaded.settings)).from_loaded(loaded, device)


@functools.cache
def _modules() -> tuple[str, ...]:
    """Names of the folder's modules; nothing is imported."""
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(encodery.encoders.__path__) if not entry.ispkg))


def _encoders(name: str) -> list[type[ModelEncoder]]:
    module = importlib.import_module(f"{encodery.encoders.__name__}.{name}")
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return [cls for cls in classes if issubclass(cls, ModelEncoder) and not inspect.isabstract(cls)]
