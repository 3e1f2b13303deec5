"""One pass of an encoder for the heads of several models: tasks, dense embeddings and token states on equal weights.

Models whose encoders have equal weights share one encoder in memory. Their requests wait in one line and are computed
in one batch, and a sequence that several of them need is computed once. Each head gives what it gives alone, up to
rounding.
Shapes: T tokens requested in a batch, U of them computed, H width.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from encodery.base.settings import encode
from encodery.model.digest import weights_digest
from encodery.model.encoder import Encoder
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.served_model import BatchGroup, ServedModel


class EncoderHead(ServedModel):
    """A served model that is a head on an encoder. `needs_layers`: it reads the layers below the last one too."""

    needs_layers: bool = False

    @property
    @abc.abstractmethod
    def model(self) -> Model:
        """The model whose encoder it reads."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Of the model."""

    @property
    def shareable(self) -> bool:
        """Whether the encoder's output is all that it needs of the model."""
        return True

    @property
    def encoder(self) -> object | None:
        """What encodes for it, one object for all heads that can share a pass; None if only its own `run` works."""
        return self.model.encoder if self.shareable else None

    def run_encoder(self, batch: Batch, needs_layers: bool) -> Output:
        """The encoder's output for a batch on its device."""
        output: Output = self.model.encoder(batch, needs_layers)
        return output

    def join(self, group: SharedEncoderGroup) -> None:
        """Use the group's encoder, and run in its batches."""
        self.model.encoder, self.batch_group = group.encoder, group

    def num_sequences(self, unit: Any) -> int:
        """The number of sequences of a unit."""
        return 1

    @abc.abstractmethod
    def batch(self, units: Sequence[Any]) -> Batch:
        """The units as the encoder reads them."""

    @abc.abstractmethod
    def run_head(self, output: Output, batch: Batch, units: Sequence[Any]) -> list[np.ndarray]:
        """The output of each unit from the encoder's output for `batch`."""


class SharedEncoderGroup(BatchGroup):
    """An encoder that several heads share."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.encoder, self.device = encoder, device

    def run(self, parts: Sequence[tuple[ServedModel, Sequence[Any]]]) -> list[list[np.ndarray]]:
        """See `BatchGroup`: one pass over the sequences that differ."""
        heads = [head for head, _ in parts if isinstance(head, EncoderHead)]
        batches = [head.batch(units) for head, (_, units) in zip(heads, parts, strict=True)]
        merged, positions = merge_batches(batches)
        with torch.inference_mode():
            output = self.encoder(merged.to(self.device), any(head.needs_layers for head in heads))
            return [
                head.run_head(select_tokens(output, own.to(self.device)), batch.to(self.device), units)
                for head, own, batch, (_, units) in zip(heads, positions, batches, parts, strict=True)
            ]


def merge_batches(batches: Sequence[Batch]) -> tuple[Batch, list[torch.Tensor]]:
    """One batch (U) of the sequences that differ, and the position in it of each token (T,) of each batch."""
    starts: dict[tuple[bytes, bytes], int] = {}
    ids, segments, lengths, positions = [], [], [], []
    total = 0
    for batch in batches:
        own_positions = []
        segment = torch.zeros_like(batch.ids) if batch.segment is None else batch.segment
        bounds = batch.cu_seqlens.tolist()[1:-1]
        sequences = (torch.tensor_split(column, bounds) for column in (batch.ids, segment))
        for sequence, sequence_segment in zip(*sequences, strict=True):
            key = sequence.numpy().tobytes(), sequence_segment.numpy().tobytes()
            if key not in starts:
                starts[key] = total
                total += sequence.numel()
                ids.append(sequence)
                segments.append(sequence_segment)
                lengths.append(sequence.numel())
            own_positions.append(torch.arange(starts[key], starts[key] + sequence.numel()))
        positions.append(torch.cat(own_positions))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    has_segments = any(batch.segment is not None for batch in batches)
    merged = Batch(torch.cat(ids), cu_seqlens, max(lengths), torch.cat(segments) if has_segments else None)
    return merged, positions


def share_encoders(models: Mapping[str, ServedModel]) -> None:
    """Let heads on equal encoders use one of them."""
    groups: dict[str, list[EncoderHead]] = {}
    digests: dict[int, str] = {}
    for head in models.values():
        if isinstance(head, EncoderHead) and head.shareable:
            encoder = head.model.encoder
            if id(encoder) not in digests:
                digests[id(encoder)] = _encoder_digest(head.model)
            groups.setdefault(digests[id(encoder)], []).append(head)
    for heads in groups.values():
        if len(heads) > 1:
            group = SharedEncoderGroup(heads[0].model.encoder, heads[0].device)
            for head in heads:
                head.join(group)


def _encoder_digest(model: Model) -> str:
    """Equal for encoders that give equal states: over settings and weights."""
    settings = {key: value for key, value in encode(model.settings).items() if key not in ("head", "dropout")}
    weights = model.encoder.state_dict()
    layout = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in sorted(weights.items())]
    seed = json.dumps([settings, layout], sort_keys=True, default=str)
    return weights_digest(weights, prefix=seed.encode())


def select_tokens(output: Output, positions: torch.Tensor) -> Output:
    """The output of the tokens at some positions."""
    layers = None if output.layers is None else tuple(layer[positions] for layer in output.layers)
    return dataclasses.replace(output, hidden=output.hidden[positions], layers=layers)
