"""One pass of an encoder for the heads of several models: tasks, vectors and states made on the same weights.

Models whose encoders are equal, weight for weight, share one in memory. What their lanes are asked waits in one line
and stands in one batch, and a sequence that is asked for several times is computed once. Each head gives what it gives
alone, up to rounding.
Shapes: T tokens asked for in a batch, U of them computed, H width.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from encodery.base.settings import encode
from encodery.model.encoder import Encoder
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.served_model import BatchGroup, ServedModel


class EncoderHead(ServedModel):
    """A lane that is a head on an encoder. `layers`: whether it wants those below the last."""

    needs_layers: bool = False

    @property
    @abc.abstractmethod
    def model(self) -> Model:
        """Whose encoder it stands on."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where that is."""

    @property
    def shareable(self) -> bool:
        """Whether the encoder's output is all it needs of the model."""
        return True

    @property
    def encoder(self) -> object | None:
        """What encodes for it, one for all that can share a pass; None where only its own `run` will do."""
        return self.model.encoder if self.shareable else None

    def run_encoder(self, batch: Batch, layers: bool) -> Output:
        """What the encoder gives for a batch on its device."""
        found: Output = self.model.encoder(batch, layers)
        return found

    def num_sequences(self, unit: Any) -> int:
        """How many of them a unit has."""
        return 1

    @abc.abstractmethod
    def batch(self, units: Sequence[Any]) -> Batch:
        """The units as the encoder reads them."""

    @abc.abstractmethod
    def run_head(self, output: Output, batch: Batch, units: Sequence[Any]) -> list[np.ndarray]:
        """What each unit gives, from the encoder's output for `batch`."""


class SharedEncoderGroup(BatchGroup):
    """An encoder and what stands on it."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.encoder, self.device = encoder, device

    def run(self, parts: Sequence[tuple[ServedModel, Sequence[Any]]]) -> list[list[np.ndarray]]:
        """What each unit of each lane gives, after one pass over the sequences that differ."""
        lanes = [lane for lane, _ in parts if isinstance(lane, EncoderHead)]
        batches = [lane.batch(units) for lane, (_, units) in zip(lanes, parts, strict=True)]
        whole, rows = merge_batches(batches)
        with torch.inference_mode():
            output = self.encoder(whole.to(self.device), any(lane.needs_layers for lane in lanes))
            return [
                lane.run_head(select_tokens(output, place.to(self.device)), batch.to(self.device), units)
                for lane, place, batch, (_, units) in zip(lanes, rows, batches, parts, strict=True)
            ]


def merge_batches(batches: Sequence[Batch]) -> tuple[Batch, list[torch.Tensor]]:
    """One batch (U) of the sequences that differ, and where each token (T,) of each batch stands in it."""
    seen: dict[tuple[bytes, bytes], int] = {}
    ids, segments, sizes, rows = [], [], [], []
    total = 0
    for batch in batches:
        places = []
        segment = torch.zeros_like(batch.ids) if batch.segment is None else batch.segment
        ends = batch.cu_seqlens.tolist()[1:-1]
        pieces = (torch.tensor_split(column, ends) for column in (batch.ids, segment))
        for some, sides in zip(*pieces, strict=True):
            key = some.numpy().tobytes(), sides.numpy().tobytes()
            if key not in seen:
                seen[key] = total
                total += some.numel()
                ids.append(some)
                segments.append(sides)
                sizes.append(some.numel())
            places.append(torch.arange(seen[key], seen[key] + some.numel()))
        rows.append(torch.cat(places))
    cu_seqlens = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
    segmented = any(batch.segment is not None for batch in batches)
    return Batch(torch.cat(ids), cu_seqlens, max(sizes), torch.cat(segments) if segmented else None), rows


def share_encoders(lanes: Mapping[str, ServedModel]) -> None:
    """Give lanes on equal encoders one of them, where there are several."""
    groups: dict[str, list[EncoderHead]] = {}
    marks: dict[int, str] = {}
    for lane in lanes.values():
        if isinstance(lane, EncoderHead) and lane.shareable:
            encoder = lane.model.encoder
            if id(encoder) not in marks:
                marks[id(encoder)] = _mark(lane.model)
            groups.setdefault(marks[id(encoder)], []).append(lane)
    for together in groups.values():
        if len(together) > 1:
            stem = SharedEncoderGroup(together[0].model.encoder, together[0].device)
            for lane in together:
                lane.model.encoder, lane.batch_group = stem.encoder, stem


def _mark(model: Model) -> str:
    """Equal for encoders that give equal states: by settings and weights."""
    settings = {k: v for k, v in encode(model.settings).items() if k not in ("head", "dropout")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def select_tokens(output: Output, rows: torch.Tensor) -> Output:
    """The output of some tokens, by their rows."""
    layers = None if output.layers is None else tuple(layer[rows] for layer in output.layers)
    return dataclasses.replace(output, hidden=output.hidden[rows], layers=layers)
