"""Opens what is served: model folders with all that each can do, and an index. Named name=folder, or by the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError, UserError
from encodery.base.settings import encode
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import parse_runtime
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.sparse import SparseEncoder
from encodery.finetune import imported
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model
from encodery.runtimes.kind import Runtime
from encodery.search.searcher import Searcher
from encodery.serve.costs import CostProbe
from encodery.serve.dense_model import DenseModel, TokenStateModel
from encodery.serve.library_models import FillMaskModel, MultiVectorModel, SearchModel, SparseModel, TokenizeModel
from encodery.serve.multi_head import multi_head_models
from encodery.serve.served_model import InferenceRequest, ServedModel
from encodery.serve.shared_encoder import share_encoders
from encodery.serve.task_model import TaskModel

INDEX = "index"
SHORTEST = 32  # of the widths that the loss `matryoshka` trains where none are named


@dataclass(frozen=True)
class ServeSettings:
    """What to serve: `models` as they are named, an `index` with its model's place if it moved, the `truncate` policy
    of requests that name none, the `runtime` of embedding models (None: the model itself) and its `threads` (None: as
    it likes)."""

    models: tuple[str, ...]
    index: str | None = None
    rerank: str | None = None
    truncate: str | None = None
    runtime: str | None = None
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class ModelRegistry:
    """`facts`: what is told of each model; `lanes`: "model/what" -> lane; `beats`: a smallest request of each model;
    `trials`: how to measure what batches of a lane cost, for those that take many texts."""

    models_info: list[dict[str, Any]]
    models: dict[str, ServedModel]
    health_probes: list[InferenceRequest]
    cost_probes: dict[str, CostProbe]


def open_models(opening: ServeSettings) -> ModelRegistry:
    """Everything, loaded and checked. Raises `UserError` kinds for what cannot be served."""
    served = ModelRegistry([], {}, [], {})
    for written in opening.models:
        name, path = parse_name(written)
        if any(facts["id"] == name for facts in served.models_info) or name == INDEX:
            raise InputError(f"Two models are called '{name}': name one otherwise, as name={path}.")
        loaded = load_model(path)
        _add(served, name, operations_of(loaded, opening), _kind(loaded, opening))
    if opening.index is not None:
        lane = SearchModel(Searcher(opening.index))
        if opening.rerank is not None:
            from encodery.search.reranking import reranker_of
            from encodery.search.tune_rerank import rerank_weight_of

            lane.reranker = reranker_of(opening.rerank).open()
            lane.rerank_weight = rerank_weight_of(lane.searcher.path, opening.rerank)
        _add(served, INDEX, {"search": lane}, {})
    share_encoders(served.models)
    _once(served)
    _join(served)
    if not served.models_info:
        raise InputError("There is nothing to serve: name a model, or an --index.")
    return served


def _join(served: ModelRegistry) -> None:
    """A lane for each encoder that asks several of its heads at once; `encoder` of a model's facts says of what it can
    do under which model's name its encoder runs."""
    for name, trunk in multi_head_models(served.models).items():
        served.models[name] = trunk
        for head in trunk.heads:
            model, _, what = head.rpartition("/")
            facts = next(facts for facts in served.models_info if facts["id"] == model)
            facts.setdefault("encoder", {})[what] = name.rpartition("/")[0]


def parse_name(written: str) -> tuple[str, str]:
    """Name and folder of `name=folder`, or of a folder alone, called as it is."""
    name, mark, path = written.partition("=")
    if mark and name and path and not Path(written).exists():
        return name, path
    folder = Path(written).resolve()
    return (folder.parent.name if folder.name == "model" else folder.name), written


def operations_of(loaded: LoadedModel, opening: ServeSettings) -> dict[str, ServedModel]:
    """All that a model can do."""
    vectors = opening.truncate or "error"
    found: dict[str, ServedModel] = {"tokenize": TokenizeModel(loaded.tokenizer)}
    if "task" in loaded.settings or (loaded.artifact is None and imported.read_head(loaded) is not None):
        found["predict"] = TaskModel(Predictor.from_model(loaded), opening.truncate)
    elif "sparse" in loaded.settings:
        found["sparse"] = SparseModel(SparseEncoder.from_loaded(loaded), vectors)
    elif "multi_vector" in loaded.settings:
        found["late"] = MultiVectorModel(MultiVectorEncoder.from_loaded(loaded), vectors)
    else:
        embedder, beside = DenseEncoder.from_loaded(loaded), None
        if opening.runtime is not None:
            runtime = parse_runtime(opening.runtime)
            if hasattr(runtime, "threads"):
                beside = embedder.with_runtime(_threaded(runtime, 1)) if opening.threads != 1 else None
                runtime = _threaded(runtime, opening.threads)
            embedder = embedder.with_runtime(runtime)
        found["embed"] = DenseModel(embedder, matryoshka_dims(loaded, embedder.dimension), vectors, beside)
        found["states"] = TokenStateModel(embedder, (), vectors, beside)
    if "mlm" in loaded.model.heads and loaded.tokenizer.roles["mask"] is not None:
        found["fill"] = FillMaskModel(loaded, loaded.model)
    return found


def _threaded(runtime: Any, threads: int | None) -> Runtime:
    found: Runtime = dataclasses.replace(runtime, threads=threads)
    return found


def _kind(loaded: LoadedModel, opening: ServeSettings) -> dict[str, Any]:
    """On what the cost of a model's batches depends: its shape, and how it is run."""
    return {"model": encode(loaded.model.settings), "runtime": opening.runtime, "threads": opening.threads}


def matryoshka_dims(loaded: LoadedModel, width: int) -> tuple[int, ...]:
    """The widths that the model's vectors were trained to be cut to, none where they were not."""
    recipe = loaded.settings.get("recipe")
    loss = recipe.get("settings", {}).get("loss") if isinstance(recipe, Mapping) else None
    while isinstance(loss, Mapping) and loss.get("is") != "matryoshka":
        loss = loss.get("loss")
    if not isinstance(loss, Mapping):
        return ()
    dims: list[int] = list(loss.get("dims") or ())
    half = width // 2
    while not loss.get("dims") and half >= SHORTEST:
        dims.append(half)
        half //= 2
    return tuple(sorted(dim for dim in dims if dim < width))


def _add(served: ModelRegistry, name: str, lanes: Mapping[str, ServedModel], kind: Mapping[str, Any]) -> None:
    can = {what: lane.info() for what, lane in lanes.items()}
    served.models_info.append({"id": name, "can": can, "version": version("encodery")})
    served.models.update({f"{name}/{what}": lane for what, lane in lanes.items()})
    requests = dict(_smallest(name, lanes, can))
    served.health_probes.append(next(iter(requests.values()), InferenceRequest(name, "tokenize", {"texts": ["a"]})))
    for what, asked in requests.items():
        if lanes[what].max_units > 1:
            depends = {**kind, "what": what, "task": can[what].get("task"), "pooling": can[what].get("pooling")}
            served.cost_probes[f"{name}/{what}"] = CostProbe(partial(_longer, asked), depends)


def _once(served: ModelRegistry) -> None:
    """One trial for lanes that stand in one batch."""
    seen: set[int] = set()
    for name in list(served.cost_probes):
        company = served.models[name].batch_group
        if company is not None and id(company) in seen:
            del served.cost_probes[name]
        seen.add(id(company))


def _smallest(
    name: str, lanes: Mapping[str, ServedModel], can: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[str, InferenceRequest]]:
    """A smallest request of each lane that one is known for."""
    tried: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        *((what, {"texts": ["a"]}, {}) for what in ("embed", "sparse", "late")),
        *(("predict", {"rows": {r: ["a"] for r in reads}}, {}) for reads in can.get("predict", {}).get("reads", ())),
        ("fill", {"texts": [can.get("fill", {}).get("mask")]}, {}),
        ("search", {"query": "a"}, {"top": 1, "rerank": False}),
    ]
    seen = set()
    for what, inputs, options in tried:
        if what in lanes and what not in seen:
            asked = InferenceRequest(name, what, inputs, options)
            try:
                if lanes[what].tokenize(asked).units:
                    seen.add(what)
                    yield what, asked
            except UserError:  # A task that wants more than one word of each role.
                continue


def _longer(asked: InferenceRequest, words: int) -> InferenceRequest:
    """The same with so many words; of a task that reads several texts the last one has them."""
    text = ["a " * words]
    rows = dict(asked.inputs.get("rows", {}))
    inputs: dict[str, Any] = {"rows": {**rows, list(rows)[-1]: text}} if rows else {"texts": text}
    return dataclasses.replace(asked, inputs=inputs, options={**asked.options, "truncate": "right"})
