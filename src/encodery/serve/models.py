"""Opens what is served: model folders with all their operations, and an index. Named name=folder, or by the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError
from encodery.base.settings import encode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import parse_runtime
from encodery.encoders.loading import load_encoder
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.finetune import imported
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model
from encodery.runtimes.kind import Runtime
from encodery.search.searcher import Reranking, Searcher
from encodery.serve.costs import CostProbe
from encodery.serve.dense_model import DenseModel, TokenStateModel
from encodery.serve.encoder_model import EncoderModel
from encodery.serve.fill_mask_model import FillMaskModel
from encodery.serve.multi_head import multi_head_models
from encodery.serve.probes import cost_probe, one_probe_per_group, smallest_requests
from encodery.serve.search_model import SearchModel
from encodery.serve.served_model import InferenceRequest, ServedModel
from encodery.serve.shared_encoder import share_encoders
from encodery.serve.static_model import StaticModel
from encodery.serve.task_model import TaskModel
from encodery.serve.tokenize_model import TokenizeModel

INDEX = "index"
MIN_DIMENSION = 32  # The smallest that the loss `matryoshka` trains if it names none.


@dataclass(frozen=True)
class ServeSettings:
    """What to serve: `models` as name=folder or folder; an `index`; the `rerank` model of its searches; the `truncate`
    policy of requests that name none; the `runtime` of dense embeddings that are not static (None: the model itself)
    and its `threads` (None: its own default)."""

    models: tuple[str, ...]
    index: str | None = None
    rerank: str | None = None
    truncate: str | None = None
    runtime: str | None = None
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class ModelRegistry:
    """`models_info`: what `/info` reports of each model; `models`: endpoint ("model/operation") -> served model;
    `health_probes`: a smallest request of each model; `cost_probes`: endpoint -> how to measure its batch costs, for
    operations that take many texts."""

    models_info: list[dict[str, Any]]
    models: dict[str, ServedModel]
    health_probes: list[InferenceRequest]
    cost_probes: dict[str, CostProbe]


def open_models(settings: ServeSettings) -> ModelRegistry:
    """Everything, loaded and checked. Raises `UserError` for what cannot be served."""
    registry = ModelRegistry([], {}, [], {})
    for argument in settings.models:
        name, path = parse_name(argument)
        if any(info["id"] == name for info in registry.models_info) or name == INDEX:
            raise InputError(f"Two models are called '{name}': give one of them another name, as in name={path}.")
        loaded = load_model(path)
        _add(registry, name, operations_of(loaded, settings), _cost_key(loaded, settings))
    if settings.index is not None:
        _add(registry, INDEX, {"search": _search_model(settings.index, settings.rerank)}, {})
    share_encoders(registry.models)
    one_probe_per_group(registry.models, registry.cost_probes)
    _add_multi_head_models(registry)
    if not registry.models_info:
        raise InputError("There is nothing to serve: name a model, or an --index.")
    return registry


def _search_model(index: str, rerank: str | None) -> SearchModel:
    searcher, reranking = Searcher.open(index), None
    if rerank is not None:
        from encodery.search.reranking import reranker_of
        from encodery.search.tune_rerank import rerank_weight_of

        weight = rerank_weight_of(searcher.index.path, rerank)
        reranking = Reranking(reranker_of(rerank).open(), weight=weight)
    return SearchModel(searcher, reranking)


def _add_multi_head_models(registry: ModelRegistry) -> None:
    """A served model for each encoder, for requests to several of its heads; `encoder` of a model's info says under the
    name of which model its encoder runs, by operation."""
    for name, model in multi_head_models(registry.models).items():
        registry.models[name] = model
        for endpoint in model.heads:
            model_name, _, operation = endpoint.rpartition("/")
            info = next(info for info in registry.models_info if info["id"] == model_name)
            info.setdefault("encoder", {})[operation] = name.rpartition("/")[0]


def parse_name(argument: str) -> tuple[str, str]:
    """The name and the folder of `name=folder`, or of a folder alone, which gives the name."""
    name, equals, path = argument.partition("=")
    if equals and name and path and not Path(argument).exists():
        return name, path
    folder = Path(argument).resolve()
    return (folder.parent.name if folder.name == "model" else folder.name), argument


def operations_of(loaded: LoadedModel, settings: ServeSettings) -> dict[str, ServedModel]:
    """The operations of a model."""
    truncate = settings.truncate or "error"
    operations: dict[str, ServedModel] = {"tokenize": TokenizeModel(loaded.tokenizer)}
    if "task" in loaded.settings or (loaded.artifact is None and imported.read_head(loaded) is not None):
        operations["predict"] = TaskModel(Predictor.from_model(loaded), settings.truncate)
    else:
        encoder = load_encoder(loaded)
        if isinstance(encoder, DenseEncoder):
            operations |= _dense_operations(loaded, encoder, settings)
        elif isinstance(encoder, SingleVectorEncoder):
            operations["embed"] = StaticModel(encoder, matryoshka_dims(loaded, encoder.dimension), truncate)
        else:
            operations[encoder.kind] = EncoderModel(encoder, truncate)
    if "mlm" in loaded.model.heads and loaded.tokenizer.roles["mask"] is not None:
        operations["fill"] = FillMaskModel(loaded, loaded.model)
    return operations


def _dense_operations(loaded: LoadedModel, encoder: DenseEncoder, settings: ServeSettings) -> dict[str, ServedModel]:
    truncate, single_thread_encoder = settings.truncate or "error", None
    if settings.runtime is not None:
        runtime = parse_runtime(settings.runtime)
        if hasattr(runtime, "threads"):
            if settings.threads != 1:
                single_thread_encoder = encoder.with_runtime(_with_threads(runtime, 1))
            runtime = _with_threads(runtime, settings.threads)
        encoder = encoder.with_runtime(runtime)
    dims = matryoshka_dims(loaded, encoder.dimension)
    return {
        "embed": DenseModel(encoder, dims, truncate, single_thread_encoder),
        "states": TokenStateModel(DenseModel(encoder, (), truncate, single_thread_encoder)),
    }


def _with_threads(runtime: Any, threads: int | None) -> Runtime:
    changed: Runtime = dataclasses.replace(runtime, threads=threads)
    return changed


def _cost_key(loaded: LoadedModel, settings: ServeSettings) -> dict[str, Any]:
    """What the batch costs of a model depend on: its shape, and how it is run."""
    return {"model": encode(loaded.model.settings), "runtime": settings.runtime, "threads": settings.threads}


def matryoshka_dims(loaded: LoadedModel, dimension: int) -> tuple[int, ...]:
    """The dimensions to which the model's vectors were trained to be truncated; empty if they were not."""
    recipe = loaded.settings.get("recipe")
    loss = recipe.get("settings", {}).get("loss") if isinstance(recipe, Mapping) else None
    while isinstance(loss, Mapping) and loss.get("is") != "matryoshka":
        loss = loss.get("loss")
    if not isinstance(loss, Mapping):
        return ()
    dims: list[int] = list(loss.get("dims") or ())
    half = dimension // 2
    while not loss.get("dims") and half >= MIN_DIMENSION:
        dims.append(half)
        half //= 2
    return tuple(sorted(dim for dim in dims if dim < dimension))


def _add(
    registry: ModelRegistry, name: str, operations: Mapping[str, ServedModel], cost_key: Mapping[str, Any]
) -> None:
    info = {operation: model.info() for operation, model in operations.items()}
    registry.models_info.append({"id": name, "operations": info, "version": version("encodery")})
    registry.models.update({f"{name}/{operation}": model for operation, model in operations.items()})
    requests = smallest_requests(name, operations, info)
    default = InferenceRequest(name, "tokenize", {"texts": ["a"]})
    registry.health_probes.append(next(iter(requests.values()), default))
    for operation, request in requests.items():
        if operations[operation].max_units > 1:
            probe = cost_probe(request, {**cost_key, "operation": operation}, info[operation])
            registry.cost_probes[f"{name}/{operation}"] = probe
