"""The encoder that a model was trained as. The folder is the registry: an encoder is named like its module, and its
settings are stored with a model under that name. Two encoders can give embeddings of one kind (dense and static)."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import encodery.encoders
from encodery.base.errors import SettingsError, UnknownName, nearest
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.single_vector import SingleVectorEncoder

if TYPE_CHECKING:
    import torch

    from encodery.model.load import LoadedModel
    from encodery.runtimes.kind import Runtime

DEFAULT_ENCODER = "dense"


def encoder_name(settings: Mapping[str, Any]) -> str:
    """The encoder of a model by its stored settings: dense unless those of another encoder are there."""
    stored = (name for name in _modules() if name in settings and name != DEFAULT_ENCODER)
    return next((name for name in stored if _encoders(name)), DEFAULT_ENCODER)


def kind_of(settings: Mapping[str, Any]) -> str:
    """The kind of embeddings of a model by its stored settings."""
    return encoder_class(encoder_name(settings)).kind


@functools.cache
def encoder_names() -> list[str]:
    """The encoders that a model can be stored as, by the modules of the folder."""
    return [name for name in _modules() if _encoders(name)]


def encoder_class(name: str) -> type[ModelEncoder]:
    """The encoder of a name. Raises `UnknownName` with the nearest name."""
    if name not in encoder_names():
        known = encoder_names()
        raise UnknownName(f"There is no encoder '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    return _encoders(name)[0]


def load_encoder(loaded: LoadedModel, device: torch.device | str | None = None) -> ModelEncoder:
    """The encoder of a loaded model, the one that it was trained as (dense if it was trained as none).

    Raises `ArtifactError` if the stored golden embeddings are no longer computed.
    """
    return encoder_class(encoder_name(loaded.settings)).from_loaded(loaded, device)


def load_dense(
    loaded: LoadedModel, device: torch.device | str | None = None, runtime: Runtime | None = None
) -> SingleVectorEncoder:
    """The encoder of a loaded model that gives one vector per text: dense or static. A `runtime` runs the model on the
    CPU unless there is a device.

    Raises `SettingsError` for a model of another kind of embeddings, and what `load_encoder` and `with_runtime` raise.
    """
    encoder = load_encoder(loaded, "cpu" if device is None and runtime is not None else device)
    if not isinstance(encoder, SingleVectorEncoder):
        raise SettingsError(
            f"{loaded.path}: was trained for {encoder.kind} embeddings, and one vector per text is needed here."
        )
    return encoder if runtime is None else encoder.with_runtime(runtime)


@functools.cache
def _modules() -> tuple[str, ...]:
    """Names of the folder's modules; nothing is imported."""
    return tuple(sorted(entry.name for entry in pkgutil.iter_modules(encodery.encoders.__path__) if not entry.ispkg))


def _encoders(name: str) -> list[type[ModelEncoder]]:
    """The classes in a module of the folder that can be built for a model."""
    module = importlib.import_module(f"{encodery.encoders.__name__}.{name}")
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return [cls for cls in classes if issubclass(cls, ModelEncoder) and not inspect.isabstract(cls)]
