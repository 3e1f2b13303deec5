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
from encodery.embed.embedder import Embedder
from encodery.embed.exported import runtime_of
from encodery.embed.multivector import MultiVectorEncoder
from encodery.embed.sparse import SparseEncoder
from encodery.finetune import stock
from encodery.finetune.predict import Predictor
from encodery.model.load import Loaded, load_model
from encodery.runtimes import Runtime
from encodery.search.searcher import Searcher
from encodery.serve.calls import LateVectors, Masks, Pieces, Searches, SparseVectors
from encodery.serve.costs import Trial
from encodery.serve.lane import Asked, Lane
from encodery.serve.stem import share
from encodery.serve.tasks import Tasks
from encodery.serve.trunk import trunks
from encodery.serve.vectors import TokenStates, Vectors

INDEX = "index"
SHORTEST = 32  # of the widths that the loss `matryoshka` trains where none are named


@dataclass(frozen=True)
class Opening:
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
class Served:
    """`facts`: what is told of each model; `lanes`: "model/what" -> lane; `beats`: a smallest request of each model;
    `trials`: how to measure what batches of a lane cost, for those that take many texts."""

    facts: list[dict[str, Any]]
    lanes: dict[str, Lane]
    beats: list[Asked]
    trials: dict[str, Trial]


def open_all(opening: Opening) -> Served:
    """Everything, loaded and checked. Raises `UserError` kinds for what cannot be served."""
    served = Served([], {}, [], {})
    for written in opening.models:
        name, path = named(written)
        if any(facts["id"] == name for facts in served.facts) or name == INDEX:
            raise InputError(f"Two models are called '{name}': name one otherwise, as name={path}.")
        loaded = load_model(path)
        _add(served, name, lanes_of(loaded, opening), _kind(loaded, opening))
    if opening.index is not None:
        lane = Searches(Searcher(opening.index))
        if opening.rerank is not None:
            from encodery.search.reranking import reranker_of
            from encodery.search.trust import share_of

            lane.reranker = reranker_of(opening.rerank).open()
            lane.rerank_weight = share_of(lane.searcher.path, opening.rerank)
        _add(served, INDEX, {"search": lane}, {})
    share(served.lanes)
    _once(served)
    _join(served)
    if not served.facts:
        raise InputError("There is nothing to serve: name a model, or an --index.")
    return served


def _join(served: Served) -> None:
    """A lane for each encoder that asks several of its heads at once; `encoder` of a model's facts says of what it can
    do under which model's name its encoder runs."""
    for name, trunk in trunks(served.lanes).items():
        served.lanes[name] = trunk
        for head in trunk.lanes:
            model, _, what = head.rpartition("/")
            facts = next(facts for facts in served.facts if facts["id"] == model)
            facts.setdefault("encoder", {})[what] = name.rpartition("/")[0]


def named(written: str) -> tuple[str, str]:
    """Name and folder of `name=folder`, or of a folder alone, called as it is."""
    name, mark, path = written.partition("=")
    if mark and name and path and not Path(written).exists():
        return name, path
    folder = Path(written).resolve()
    return (folder.parent.name if folder.name == "model" else folder.name), written


def lanes_of(loaded: Loaded, opening: Opening) -> dict[str, Lane]:
    """All that a model can do."""
    vectors = opening.truncate or "error"
    found: dict[str, Lane] = {"tokenize": Pieces(loaded.tokenizer)}
    if "task" in loaded.settings or (loaded.artifact is None and stock.head(loaded) is not None):
        found["predict"] = Tasks(Predictor.of(loaded), opening.truncate)
    elif "sparse" in loaded.settings:
        found["sparse"] = SparseVectors(SparseEncoder.of(loaded), vectors)
    elif "multivector" in loaded.settings:
        found["late"] = LateVectors(MultiVectorEncoder.of(loaded), vectors)
    else:
        embedder, beside = Embedder.of(loaded), None
        if opening.runtime is not None:
            runtime = runtime_of(opening.runtime)
            if hasattr(runtime, "threads"):
                beside = embedder.on(_threaded(runtime, 1)) if opening.threads != 1 else None
                runtime = _threaded(runtime, opening.threads)
            embedder = embedder.on(runtime)
        found["embed"] = Vectors(embedder, matryoshka(loaded, embedder.width), vectors, beside)
        found["states"] = TokenStates(embedder, (), vectors, beside)
    if "mlm" in loaded.model.heads and loaded.tokenizer.roles["mask"] is not None:
        found["fill"] = Masks(loaded, loaded.model)
    return found


def _threaded(runtime: Any, threads: int | None) -> Runtime:
    found: Runtime = dataclasses.replace(runtime, threads=threads)
    return found


def _kind(loaded: Loaded, opening: Opening) -> dict[str, Any]:
    """On what the cost of a model's batches depends: its shape, and how it is run."""
    return {"model": encode(loaded.model.settings), "runtime": opening.runtime, "threads": opening.threads}


def matryoshka(loaded: Loaded, width: int) -> tuple[int, ...]:
    """The widths that the model's vectors were trained to be cut to, none where they were not."""
    recipe = loaded.settings.get("recipe")
    loss = recipe.get("loss") if isinstance(recipe, Mapping) else None
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


def _add(served: Served, name: str, lanes: Mapping[str, Lane], kind: Mapping[str, Any]) -> None:
    can = {what: lane.facts() for what, lane in lanes.items()}
    served.facts.append({"id": name, "can": can, "version": version("encodery")})
    served.lanes.update({f"{name}/{what}": lane for what, lane in lanes.items()})
    requests = dict(_smallest(name, lanes, can))
    served.beats.append(next(iter(requests.values()), Asked(name, "tokenize", {"texts": ["a"]})))
    for what, asked in requests.items():
        if lanes[what].most > 1:
            depends = {**kind, "what": what, "task": can[what].get("task"), "pooling": can[what].get("pooling")}
            served.trials[f"{name}/{what}"] = Trial(partial(_longer, asked), depends)


def _once(served: Served) -> None:
    """One trial for lanes that stand in one batch."""
    seen: set[int] = set()
    for name in list(served.trials):
        company = served.lanes[name].company
        if company is not None and id(company) in seen:
            del served.trials[name]
        seen.add(id(company))


def _smallest(name: str, lanes: Mapping[str, Lane], can: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, Asked]]:
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
            asked = Asked(name, what, inputs, options)
            try:
                if lanes[what].read(asked).units:
                    seen.add(what)
                    yield what, asked
            except UserError:  # A task that wants more than one word of each role.
                continue


def _longer(asked: Asked, words: int) -> Asked:
    """The same with so many words; of a task that reads several texts the last one has them."""
    text = ["a " * words]
    rows = dict(asked.inputs.get("rows", {}))
    inputs: dict[str, Any] = {"rows": {**rows, list(rows)[-1]: text}} if rows else {"texts": text}
    return dataclasses.replace(asked, inputs=inputs, options={**asked.options, "truncate": "right"})
