"""Formats of Hugging Face checkpoints: config.json and named tensors to our settings and tensors, and back."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from encodery.base.parts import Part, name_of
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames, undeclared_head
from encodery.model.settings import ModelSettings


class CheckpointFormat(Part):
    """One format: a map of tensor names and a map of settings, both ways. `model/conversion.py` applies it.

    Tensor names are canonical here: the encoder's tensors start with `prefix`, whether or not those of the file do.
    """

    prefix: ClassVar[str]
    """Start of the names of the encoder's tensors in a checkpoint that has a head."""
    bare_prefixes: ClassVar[tuple[str, ...]]
    """Starts of the names of the encoder's tensors in a checkpoint of the bare encoder."""
    unused_tensors: ClassVar[tuple[str, ...]]
    """Names below `prefix` that the hidden states do not depend on (pooler, index buffers)."""
    decoder_weight: ClassVar[str]
    """Name of the decoder's weight, which the checkpoint has only if the decoder is not tied."""
    unused_bias: ClassVar[str | None] = None
    """Name of a second bias, which the stock class stores beside the bias of an untied decoder and does not use."""
    stock_classes: ClassVar[Mapping[str | None, str]]
    """`ModelSettings.head_name` (None without a head) → the stock class. Models with other heads cannot be written."""
    pooler: ClassVar[str | None] = None
    """Name of the dense layer from which the bare stock class computes `pooler_output`; None if it has none."""
    heads: ClassVar[Mapping[HeadKind, HeadForm]] = MappingProxyType({})
    """Heads of tasks that the stock classes have."""

    @abc.abstractmethod
    def matches(self, config: Config) -> bool:
        """Whether a config.json has this format."""

    @abc.abstractmethod
    def head_in(self, state: State) -> str | None:
        """The `ModelSettings.head_name` of the heads whose tensors are in a checkpoint; None without any."""

    @abc.abstractmethod
    def read_config(self, config: Config, *, head: str | None, tied: bool = True) -> ModelSettings:
        """Our settings with the heads of that `head_name`. Raises `SettingsError` naming an unsupported value."""

    @abc.abstractmethod
    def incompatibilities(self, settings: ModelSettings, special: SpecialTokenIds) -> list[str]:
        """The settings that this format cannot express, one a line; empty if the model can be written."""

    @abc.abstractmethod
    def write_config(self, settings: ModelSettings, special: SpecialTokenIds) -> dict[str, Any]:
        """The config.json of a model without incompatibilities."""

    @abc.abstractmethod
    def tensor_names(self, config: Config, settings: ModelSettings) -> TensorNames:
        """Our tensor names to theirs, for every tensor that the stock class needs."""

    @staticmethod
    @abc.abstractmethod
    def example() -> ModelSettings:
        """A small model with a head that this format expresses exactly, for tests and documentation."""

    def head_form(self, kind: HeadKind, config: Config) -> HeadForm:
        """The head of the stock class of `kind` under `config`. Raises `SettingsError` if the format declares none."""
        if kind not in self.heads:
            raise undeclared_head(name_of(self), self.stock_class(kind), self.heads)
        return self.heads[kind]

    def head_config(self, form: HeadForm, *, dropout: float, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        """The keys of config.json that make the stock class compute `form`."""
        return {"classifier_dropout": dropout}

    def stock_class(self, kind: HeadKind) -> str:
        """The name of the stock class with a task's head of that kind."""
        return f"{self.stock_classes[None].removesuffix('Model')}For{kind}"
