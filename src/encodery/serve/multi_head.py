"""Several heads asked in one request: every sequence is read and encoded once, whoever of them wants it.

A unit here is a sequence (or the few of one example) with all who want it, so that it cannot come apart on its way: it
waits once, counts once, and stands in one batch, with those of other requests. Each head's own lane reads the texts and
makes the answer; only what lies between is shared.
Shapes: N texts, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from encodery.base.errors import UserError
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.api_error import ApiError, as_api_error
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest
from encodery.serve.shared_encoder import EncoderHead, select_tokens

OPERATION = "heads"


@dataclass(frozen=True, eq=False)
class _Shared:
    """Sequences of `sizes` tokens, and who wants them: a lane's name and its own unit."""

    ids: torch.Tensor
    segment: torch.Tensor
    sizes: tuple[int, ...]
    wants: list[tuple[str, Any]]


@dataclass(frozen=True, eq=False)
class _Part:
    """A head of a request. `places`: for each of its lane's units, the shared unit and the place among who want it."""

    label: str
    lane: EncoderHead
    told: Any
    places: list[tuple[int, int]]


class MultiHeadModel(EncoderHead):
    """The lanes (by name) that stand on one encoder, to be asked together."""

    def __init__(self, lanes: Mapping[str, EncoderHead]) -> None:
        self.heads = dict(lanes)
        self.first = next(iter(self.heads.values()))
        self.batch_group = self.first.batch_group
        self.max_units, self.exclusive = (
            min(lane.max_units for lane in lanes.values()),
            any(lane.exclusive for lane in lanes.values()),
        )
        self.needs_layers = any(lane.needs_layers for lane in lanes.values())

    def single_threaded(self) -> ServedModel:
        """On the lanes' runtime of one thread."""
        found = copy.copy(self)
        found.heads = {name: lane.single_threaded() for name, lane in self.heads.items()}  # type: ignore[misc]
        found.first = next(iter(found.heads.values()))
        return found

    @property
    def model(self) -> Model:
        """The first lane's, whose encoder is that of all."""
        return self.first.model

    @property
    def device(self) -> torch.device:
        """Where that is."""
        return self.first.device

    @property
    def encoder(self) -> object | None:
        """See `Headed`."""
        return self.first.encoder

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: heads, by label {"lane", "options"}, and of a tagger {"types"}."""
        texts, parts, shared = list(request.inputs["texts"]), [], dict[Any, tuple[int, _Shared]]()
        for label, wanted in request.options["heads"].items():
            lane, (model, _, what) = self.heads[wanted["lane"]], wanted["lane"].rpartition("/")
            inputs: dict[str, Any] = {"texts": texts}
            if what == "predict":
                types = {"types": [wanted["types"]] * len(texts)} if wanted.get("types") else {}
                inputs = {"rows": {"text": texts, **types}}
            try:
                reading = lane.tokenize(InferenceRequest(model, what, inputs, wanted["options"]))
            except UserError as error:
                said = as_api_error(error)
                raise ApiError(said.status, said.code, f"heads.{label}: {said.message}", f"heads.{label}") from error
            parts.append(_Part(label, lane, reading.context, _placed(wanted["lane"], lane, reading.units, shared)))
        units = [unit for _, unit in shared.values()]
        tokens = [sum(unit.sizes) for unit in units]
        return TokenizedRequest(units, tokens, (parts, tokens))

    def batch(self, units: Sequence[_Shared]) -> Batch:
        """See `Headed`."""
        sizes = [size for unit in units for size in unit.sizes]
        cu_seqlens = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
        segment = torch.cat([unit.segment for unit in units])
        ids = torch.cat([unit.ids for unit in units])
        return Batch(ids, cu_seqlens, max(sizes), segment if bool(segment.any()) else None)

    def run_encoder(self, batch: Batch, layers: bool) -> Output:
        """See `Headed`."""
        return self.first.run_encoder(batch, layers)

    def run(self, units: Sequence[_Shared]) -> list[list[np.ndarray]]:
        """What each of those that want a unit makes of it."""
        with torch.inference_mode():
            batch = self.batch(units).to(self.device)
            return self.run_head(self.run_encoder(batch, self.needs_layers), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[_Shared]) -> list[Any]:
        """See `Headed`."""
        ends = np.cumsum([sum(unit.sizes) for unit in units])
        wanted: dict[str, list[tuple[int, int, Any]]] = {}
        for number, unit in enumerate(units):
            for place, (name, own) in enumerate(unit.wants):
                wanted.setdefault(name, []).append((number, place, own))
        found: list[list[Any]] = [[None] * len(unit.wants) for unit in units]
        for name, some in wanted.items():
            rows = torch.cat([torch.arange(ends[n] - sum(units[n].sizes), ends[n]) for n, _, _ in some])
            lane, own = self.heads[name], [one for _, _, one in some]
            given = lane.run_head(select_tokens(output, rows.to(self.device)), lane.batch(own).to(self.device), own)
            for (number, place, _), value in zip(some, given, strict=True):
                found[number][place] = value
        return found

    def finish(self, context: tuple[list[_Part], list[int]], outputs: Sequence[Any]) -> InferenceResult:
        """`heads` by label: the table of its own answer; arrays are called number/name, by the head's number."""
        parts, tokens = context
        tables: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        dropped: list[Sequence[int]] = []
        for number, part in enumerate(parts):
            answer = part.lane.finish(part.told, [outputs[unit][place] for unit, place in part.places])
            tables[part.label] = answer.body
            arrays |= {f"{number}/{name}": array for name, array in answer.arrays.items()}
            dropped.append(answer.dropped)
        most = [max(some) for some in zip(*dropped, strict=True)]
        return InferenceResult({"heads": tables}, arrays, tokens, most)


def multi_head_models(lanes: Mapping[str, ServedModel]) -> dict[str, MultiHeadModel]:
    """Name of a lane that asks several -> that lane: one for each encoder there is, called by its first model."""
    groups: dict[int, dict[str, EncoderHead]] = {}
    for name, lane in lanes.items():
        if isinstance(lane, EncoderHead) and lane.encoder is not None:
            groups.setdefault(id(lane.encoder), {})[name] = lane
    return {f"{next(iter(some)).rpartition('/')[0]}/{OPERATION}": MultiHeadModel(some) for some in groups.values()}


def _placed(
    name: str, lane: EncoderHead, units: Sequence[Any], shared: dict[Any, tuple[int, _Shared]]
) -> list[tuple[int, int]]:
    """Put a lane's units among those shared; where each stands, see `_Part`."""
    if not units:
        return []
    batch = lane.batch(units)
    segment = torch.zeros_like(batch.ids) if batch.segment is None else batch.segment
    sizes, places, first, begin = batch.cu_seqlens.diff().tolist(), [], 0, 0
    for unit in units:
        own = tuple(sizes[first : first + lane.num_sequences(unit)])
        first, end = first + len(own), begin + sum(own)
        ids, sides = batch.ids[begin:end], segment[begin:end]
        key = own, ids.numpy().tobytes(), sides.numpy().tobytes()
        number, found = shared.setdefault(key, (len(shared), _Shared(ids, sides, own, [])))
        found.wants.append((name, unit))
        places.append((number, len(found.wants) - 1))
        begin = end
    return places
