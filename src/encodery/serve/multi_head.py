"""Several heads in one request: every sequence is read and encoded once, for all heads that need it.

A unit here is a sequence, or the few sequences of one example, with all heads that need it: so it waits once, counts
once, and is in one batch, with units of other requests. Each head's own served model tokenises the texts and makes the
result; only the encoder's pass between them is shared.
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
class _SharedUnit:
    """Sequences of `lengths` tokens, and the heads that need them: the endpoint and its own unit."""

    ids: torch.Tensor
    segment: torch.Tensor
    lengths: tuple[int, ...]
    users: list[tuple[str, Any]]


@dataclass(frozen=True, eq=False)
class _HeadRequest:
    """A head of a request. `positions`: for each unit of its model, the shared unit and the place among its users."""

    label: str
    head: EncoderHead
    context: Any
    positions: list[tuple[int, int]]


class MultiHeadModel(EncoderHead):
    """The heads, by endpoint, on one encoder, to be requested together."""

    def __init__(self, heads: Mapping[str, EncoderHead]) -> None:
        self.heads = dict(heads)
        self.first = next(iter(self.heads.values()))
        self.batch_group = self.first.batch_group
        self.max_units = min(head.max_units for head in heads.values())
        self.exclusive = any(head.exclusive for head in heads.values())
        self.needs_layers = any(head.needs_layers for head in heads.values())

    def single_threaded(self) -> ServedModel:
        """See `ServedModel`."""
        model = copy.copy(self)
        model.heads = {name: head.single_threaded() for name, head in self.heads.items()}  # type: ignore[misc]
        model.first = next(iter(model.heads.values()))
        return model

    @property
    def model(self) -> Model:
        """The first head's, whose encoder is that of all."""
        return self.first.model

    @property
    def device(self) -> torch.device:
        """The first head's."""
        return self.first.device

    @property
    def encoder(self) -> object | None:
        """See `EncoderHead`."""
        return self.first.encoder

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: texts; `options`: heads, by label {"endpoint", "options"}, and of a tagger {"types"}."""
        texts, parts, shared = list(request.inputs["texts"]), [], dict[Any, tuple[int, _SharedUnit]]()
        for label, options in request.options["heads"].items():
            endpoint = options["endpoint"]
            head, (model, _, operation) = self.heads[endpoint], endpoint.rpartition("/")
            inputs: dict[str, Any] = {"texts": texts}
            if operation == "predict":
                types = {"types": [options["types"]] * len(texts)} if options.get("types") else {}
                inputs = {"rows": {"text": texts, **types}}
            try:
                tokenized = head.tokenize(InferenceRequest(model, operation, inputs, options["options"]))
            except UserError as error:
                cause = as_api_error(error)
                message = f"heads.{label}: {cause.message}"
                raise ApiError(cause.status, cause.code, message, f"heads.{label}") from error
            parts.append(_HeadRequest(label, head, tokenized.context, _share(endpoint, head, tokenized.units, shared)))
        units = [unit for _, unit in shared.values()]
        tokens = [sum(unit.lengths) for unit in units]
        return TokenizedRequest(units, tokens, (parts, tokens))

    def batch(self, units: Sequence[_SharedUnit]) -> Batch:
        """See `EncoderHead`."""
        lengths = [length for unit in units for length in unit.lengths]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        segment = torch.cat([unit.segment for unit in units])
        ids = torch.cat([unit.ids for unit in units])
        return Batch(ids, cu_seqlens, max(lengths), segment if bool(segment.any()) else None)

    def run_encoder(self, batch: Batch, needs_layers: bool) -> Output:
        """See `EncoderHead`."""
        return self.first.run_encoder(batch, needs_layers)

    def run(self, units: Sequence[_SharedUnit]) -> list[list[np.ndarray]]:
        """The outputs of each unit for its users."""
        with torch.inference_mode():
            batch = self.batch(units).to(self.device)
            return self.run_head(self.run_encoder(batch, self.needs_layers), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[_SharedUnit]) -> list[Any]:
        """See `EncoderHead`."""
        ends = np.cumsum([sum(unit.lengths) for unit in units])
        by_head: dict[str, list[tuple[int, int, Any]]] = {}
        for number, unit in enumerate(units):
            for position, (endpoint, own) in enumerate(unit.users):
                by_head.setdefault(endpoint, []).append((number, position, own))
        outputs: list[list[Any]] = [[None] * len(unit.users) for unit in units]
        for endpoint, users in by_head.items():
            tokens = torch.cat([torch.arange(ends[n] - sum(units[n].lengths), ends[n]) for n, _, _ in users])
            head, own_units = self.heads[endpoint], [own for _, _, own in users]
            own_batch = head.batch(own_units).to(self.device)
            values = head.run_head(select_tokens(output, tokens.to(self.device)), own_batch, own_units)
            for (number, position, _), value in zip(users, values, strict=True):
                outputs[number][position] = value
        return outputs

    def finish(self, context: tuple[list[_HeadRequest], list[int]], outputs: Sequence[Any]) -> InferenceResult:
        """`heads` by label: the body of that head's result; arrays are called number/name, by the head's number."""
        parts, tokens = context
        bodies: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        dropped: list[Sequence[int]] = []
        for number, part in enumerate(parts):
            own = [outputs[unit][position] for unit, position in part.positions]
            result = part.head.finish(part.context, own)
            bodies[part.label] = result.body
            arrays |= {f"{number}/{name}": array for name, array in result.arrays.items()}
            dropped.append(result.dropped)
        max_dropped = [max(counts) for counts in zip(*dropped, strict=True)]
        return InferenceResult({"heads": bodies}, arrays, tokens, max_dropped)


def multi_head_models(models: Mapping[str, ServedModel]) -> dict[str, MultiHeadModel]:
    """Endpoint -> the model of several heads: one for each encoder, under the name of its first model."""
    groups: dict[int, dict[str, EncoderHead]] = {}
    for name, model in models.items():
        if isinstance(model, EncoderHead) and model.encoder is not None:
            groups.setdefault(id(model.encoder), {})[name] = model
    return {f"{next(iter(heads)).rpartition('/')[0]}/{OPERATION}": MultiHeadModel(heads) for heads in groups.values()}


def _share(
    endpoint: str, head: EncoderHead, units: Sequence[Any], shared: dict[Any, tuple[int, _SharedUnit]]
) -> list[tuple[int, int]]:
    """Put the units of a head among the shared ones; the positions, see `_HeadRequest`."""
    if not units:
        return []
    batch = head.batch(units)
    segment = torch.zeros_like(batch.ids) if batch.segment is None else batch.segment
    lengths, positions, first, begin = batch.cu_seqlens.diff().tolist(), [], 0, 0
    for unit in units:
        own = tuple(lengths[first : first + head.num_sequences(unit)])
        first, end = first + len(own), begin + sum(own)
        ids, own_segment = batch.ids[begin:end], segment[begin:end]
        key = own, ids.numpy().tobytes(), own_segment.numpy().tobytes()
        number, shared_unit = shared.setdefault(key, (len(shared), _SharedUnit(ids, own_segment, own, [])))
        shared_unit.users.append((endpoint, unit))
        positions.append((number, len(shared_unit.users) - 1))
        begin = end
    return positions
