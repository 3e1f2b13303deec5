"""Doors: layouts of Hugging Face checkpoints (config.json and named tensors) into ours and back, without loss."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import Part, find_part, name_of, part_names
from encodery.model.network import ModelSettings
from encodery.model.shape import Batch

Config = Mapping[str, Any]
State = Mapping[str, Tensor]
TensorNames = dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class SpecialTokenIds:
    """Ids of special tokens that a configuration names; None where the tokenizer has no such token."""

    pad: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None


class CheckpointFormat(Part):
    """One layout: a map of names and a map of settings, both ways.

    Tensor names are canonical here: the encoder's begin with `prefix`, whether or not the file's did.
    """

    prefix: ClassVar[str]
    """What the encoder's tensors begin with in a checkpoint that has a head."""
    bare_prefixes: ClassVar[tuple[str, ...]]
    """What the encoder's tensors begin with in a checkpoint of the bare encoder."""
    unused_tensors: ClassVar[tuple[str, ...]]
    """Names below `prefix` that the hidden states do not depend on (pooler, index buffers)."""
    decoder_weight: ClassVar[str]
    """Name of the decoder's weight, there only where it is not tied."""
    unused_bias: ClassVar[str | None] = None
    """Name of a second bias, which the stock class holds beside an untied decoder's own and does not use."""
    stock_classes: ClassVar[tuple[str, str]]
    """The stock classes: bare encoder, masked-language model."""

    @abc.abstractmethod
    def matches(self, config: Config) -> bool:
        """Whether a config.json is of this layout."""

    @abc.abstractmethod
    def has_head(self, state: State) -> bool:
        """Whether the tensors hold a masked-language-model head."""

    @abc.abstractmethod
    def read_config(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        """Our settings. Raises `SettingsError` naming a key whose value we cannot follow."""

    @abc.abstractmethod
    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        """What keeps a model from this layout, one setting a line; empty where it can be written."""

    @abc.abstractmethod
    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        """The config.json of a model without obstacles."""

    @abc.abstractmethod
    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        """Our tensor names to theirs, for every tensor the stock class needs; several are joined by rows."""

    def import_tensors(
        self, state: State, config: Config, settings: ModelSettings
    ) -> tuple[dict[str, Tensor], set[str]]:
        """(our tensors, their names that were not needed). Raises `ArtifactError` naming a missing tensor."""
        ours: dict[str, Tensor] = {}
        left = set(state)
        for mine, theirs in self.tensor_names(config, settings).items():
            for name in theirs:
                if name not in state:
                    raise ArtifactError(f"The checkpoint has no tensor '{name}', which its config.json calls for.")
            left -= set(theirs)
            pieces = [state[name] for name in theirs]
            ours[mine] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        unknown = sorted(n for n in left if n.startswith(self.prefix) and not n.startswith(self._spare_names()))
        if unknown:
            raise ArtifactError(
                f"The checkpoint's tensor '{unknown[0]}' has no place in the {name_of(self)} layout "
                f"({len(unknown)} such): its encoder is not a stock one."
            )
        return ours, left

    def _spare_names(self) -> tuple[str, ...]:
        return tuple(self.prefix + name for name in self.unused_tensors)

    def export_tensors(self, state: State, config: Config, settings: ModelSettings) -> dict[str, Tensor]:
        """Their tensors. What the layout has and the model lacks is written as what changes nothing (zeros)."""
        theirs: dict[str, Tensor] = {}
        for mine, targets in self.tensor_names(config, settings).items():
            whole = state[mine] if mine in state else _neutral(mine, state, settings)
            for name, piece in zip(targets, whole.chunk(len(targets)), strict=True):
                theirs[name] = piece.contiguous()
        if self.unused_bias is not None and self.decoder_weight in theirs:
            theirs.setdefault(self.unused_bias, theirs[self.decoder_bias].clone())
        return theirs

    @property
    def decoder_bias(self) -> str:
        """Name of the bias beside `decoder`."""
        return self.decoder_weight.removesuffix("weight") + "bias"


def format_of(config: Config) -> CheckpointFormat:
    """The door whose layout a config.json is of. Raises `ArtifactError` listing the layouts known."""
    for name in part_names(CheckpointFormat):
        door = find_part(CheckpointFormat, name)()
        if door.matches(config):
            return door
    kind = config.get("model_type")
    raise ArtifactError(
        f"config.json: model_type = {kind!r} is a layout without a door here. Known: {', '.join(part_names(CheckpointFormat))}."
    )


def exportable_format(settings: ModelSettings, special: SpecialTokenIds, layout: str | None = None) -> CheckpointFormat:
    """The door by which a model can leave: `layout`, or the first without obstacles.

    Raises `SettingsError` that names, for each layout, the settings in the way.
    """
    tried = []
    for name in [layout] if layout else part_names(CheckpointFormat):
        door = find_part(CheckpointFormat, name)()
        obstacles = door.incompatibilities(settings, special)
        if not obstacles:
            return door
        tried.append(f"{name}: " + "; ".join(obstacles))
    raise SettingsError("No stock layout can hold this model.\n  " + "\n  ".join(tried))


def _neutral(name: str, state: State, settings: ModelSettings) -> Tensor:
    """The tensor that stands for a part the model does not have."""
    shape = settings.shape
    if name == "encoder.embeddings.segment.weight":
        return torch.zeros(2, shape.embedding_size)
    if name == "encoder.positions.table.weight":
        return _position_table(state, settings)
    if name == "heads.mlm.bias":
        return torch.zeros(shape.vocab_size)
    return torch.zeros(state[name.removesuffix("bias") + "weight"].shape[0])


def _position_table(state: State, settings: ModelSettings) -> Tensor:
    """What positions without a table add at each place (max_length, E)."""
    shape = settings.shape
    module = settings.positions.build(shape)
    start = "encoder.positions."
    module.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
    with torch.no_grad():
        layout = Batch.from_sequences([[0] * shape.max_length]).layout
        return module.add(torch.zeros(shape.max_length, shape.embedding_size), layout)
