"""Formats of Hugging Face checkpoints: config.json and named tensors to our settings and tensors, and back."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.model.format_types import Config, HeadForm, HeadKind, SpecialTokenIds, State, TensorNames
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
    stock_classes: ClassVar[tuple[str, str]]
    """The stock classes of the bare encoder and of the masked language model."""
    heads: ClassVar[Mapping[HeadKind, Mapping[str, str]]] = MappingProxyType({})
    """Kind of a task's head → our layers of it → theirs (see `HeadForm.layers`)."""

    @abc.abstractmethod
    def matches(self, config: Config) -> bool:
        """Whether a config.json has this format."""

    @abc.abstractmethod
    def has_lm_head(self, state: State) -> bool:
        """Whether the tensors include a masked-language-model head."""

    @abc.abstractmethod
    def read_config(self, config: Config, *, head: bool, tied: bool = True) -> ModelSettings:
        """Our settings. Raises `SettingsError` naming a key whose value is not supported."""

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
            stock = self.stock_classes[0].removesuffix("Model") + f"For{kind}"
            declared = ", ".join(self.heads) or "none"
            raise SettingsError(
                f"The checkpoint format '{name_of(self)}' does not declare where {stock} stores its head, so the head "
                f"cannot be used; heads declared: {declared}. The encoder itself can."
            )
        return HeadForm(layers=self.heads[kind])

    def head_config(self, form: HeadForm, *, dense_bias: bool, norm_bias: bool) -> dict[str, Any]:
        """The keys of config.json that make the stock class compute `form`."""
        return {}
