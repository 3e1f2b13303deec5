"""Retrievers of encoders and of the folders of models. The folder `retrievers/` is the registry."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.base.errors import InputError
from encodery.encoders import TextEncoder
from encodery.encoders.exported import parse_runtime
from encodery.encoders.loading import kind_of, load_dense, load_encoder
from encodery.search.modes import DENSE, MODEL_MODES
from encodery.search.retrievers import ModelRetriever


def mode_of(folder: str | Path) -> str:
    """Return the mode of search of the model in a folder or run, by its manifest; the model is not loaded."""
    kinds = (kind_of(artifact.manifest.settings) for artifact in Artifact.find_all(folder))
    return next((kind for kind in kinds if kind != DENSE), DENSE)


def load_retriever(folder: str | Path, runtime: str | None = None) -> ModelRetriever:
    """Load the model of a folder or run as a retriever.

    Args:
        runtime: the name of a runtime, or the folder of an export to onnx or openvino, that runs a dense model; models
            of other kinds always run in PyTorch.
    """
    from encodery.model.load import load_model

    loaded = load_model(folder)
    if runtime is None or kind_of(loaded.settings) != DENSE:
        return as_retriever(load_encoder(loaded))
    return as_retriever(load_dense(loaded, runtime=parse_runtime(runtime)))


def load_retrievers(models: Sequence[Path], runtime: str | None) -> tuple[list[ModelRetriever], dict[str, Path]]:
    """Load several models; return their retrievers, and mode -> folder.

    Raises `InputError` for a runtime if no model is dense, since it would run none of them.
    """
    retrievers = [load_retriever(model, runtime) for model in models]
    modes = [retriever.mode for retriever in retrievers]
    if runtime is not None and DENSE not in modes:
        raise InputError(f"--runtime {runtime}: applies to dense models only; given: {', '.join(modes) or 'none'}.")
    return retrievers, dict(zip(modes, models, strict=True))


def as_retriever(encoder: ModelRetriever | TextEncoder) -> ModelRetriever:
    """Return the retriever of an encoder, by its kind."""
    if isinstance(encoder, ModelRetriever):
        return encoder
    module = importlib.import_module(f"encodery.search.retrievers.{encoder.kind}")
    members = inspect.getmembers(module, inspect.isclass)
    own: list[Any] = [cls for _, cls in members if cls.__module__ == module.__name__]
    retriever: ModelRetriever = own[0](encoder)
    return retriever


def as_retrievers(encoders: Any) -> tuple[ModelRetriever, ...]:
    """Return the retrievers of nothing, one encoder or several, in the order of `MODEL_MODES`.

    Raises `InputError` for two encoders of one kind.
    """
    several = () if encoders is None else encoders if isinstance(encoders, tuple | list) else (encoders,)
    retrievers = [as_retriever(encoder) for encoder in several]
    modes = [retriever.mode for retriever in retrievers]
    for mode in modes:
        if modes.count(mode) > 1:
            raise InputError(
                f"Two models for {mode} search: an index has at most one of each: {', '.join(MODEL_MODES)}."
            )
    return tuple(sorted(retrievers, key=lambda retriever: MODEL_MODES.index(retriever.mode)))
