"""Types of the checkpoint formats: configurations, named tensors, ids of special tokens, heads of stock classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from encodery.base.errors import SettingsError

Config = Mapping[str, Any]
"""The contents of a config.json."""
State = Mapping[str, Tensor]
"""Tensors by name."""
TensorNames = dict[str, tuple[str, ...]]
"""Our name of a tensor → the names of the checkpoint's tensors that are concatenated along dimension 0 to give it."""
HeadKind = Literal["SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"]
"""What follows `For` in the name of a stock class."""


@dataclass(frozen=True, kw_only=True)
class SpecialTokenIds:
    """Ids of the special tokens that a configuration names; None where the tokenizer has no such token."""

    pad: int | None = None
    cls: int | None = None
    sep: int | None = None
    mask: int | None = None


@dataclass(frozen=True, kw_only=True)
class HeadForm:
    """What a stock class computes between the hidden states and the outputs of a task.

    `layers`: our layer of a head ("dense", "norm", "out") → the name of theirs, without ".weight" and ".bias".
    `pooling` ("cls" or "mean") matters to heads that read a whole sequence. `activation` follows the dense layer: a
    name of `HeadedTask.head_activation`, or with a norm the name that the configuration uses. `norm_eps` belongs to the
    norm and is None without one.
    """

    layers: Mapping[str, str]
    pooling: str = "cls"
    activation: str = "tanh"
    norm_eps: float | None = None


def undeclared_head(format_name: str, stock_class: str, declared: Iterable[str]) -> SettingsError:
    """The error for a head of a task that a checkpoint format does not declare."""
    return SettingsError(
        f"The checkpoint format '{format_name}' does not declare where {stock_class} stores its head, so the head "
        f"cannot be used; heads declared: {', '.join(declared) or 'none'}. The encoder itself can."
    )
