"""Text encoders that are computed by a model of this package, and stored in its artifact."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from encodery.base.machine import device as machine_device
from encodery.encoders import TextEncoder
from encodery.model.network import Model

if TYPE_CHECKING:
    from typing import Self

    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class StoredEncoder:
    """What a model's artifact keeps of its encoder: `settings` under the name of the kind, and the tensors of
    `modules` with the golden values, as `model.load.save_model` takes them."""

    settings: dict[str, Any]
    modules: dict[str, dict[str, Tensor]]


class ModelEncoder(TextEncoder):
    """A model with its tokenizer. The model is put into evaluation mode on `device`, the machine's own if None;
    `max_length` is that of the model if the settings have none, and never more."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, max_length: int | None, device: torch.device | str | None
    ) -> None:
        self.device = torch.device(device) if device is not None else machine_device()
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.max_length = min(max_length or model.settings.max_length, model.settings.max_length)

    @classmethod
    @abc.abstractmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> Self:
        """The encoder of a loaded model with its stored settings; golden values are computed again.

        Raises `SettingsError` for a model that was trained for embeddings of another kind, `ArtifactError` if the
        golden values differ.
        """

    @abc.abstractmethod
    def stored(self) -> StoredEncoder:
        """What is stored with the model. The encoder must be on the CPU in float32."""
