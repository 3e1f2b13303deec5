"""A model's encoder for inference on the CPU, run by `packed_fp32` where that can: equal to rounding, and faster.

What the engine does not give goes through the encoder itself: layers below the last, gradients, a front of one pass,
training, lower precision, another device, and weights that were changed or exchanged after the engine took its copy of
them. The engine is made when it is first needed; it uses as many threads as PyTorch does where it is called.
Shapes: T tokens, H width.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.extensions import SequenceTransform
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.runtimes import _packed
from encodery.runtimes._checked import check_batch
from encodery.runtimes._native import kernels
from encodery.runtimes.packed_fp32 import PackedFP32


class PackedEncoder(nn.Module):
    """In place of a model's encoder, which it holds and otherwise is."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.original = (model,)  # In a tuple, so that it is no module of this one.
        self._lock = threading.Lock()
        self._engine: _packed.PackedEngine | None = None
        self._taken: list[tuple[int, int, int]] = []
        self._kept: list[Tensor] = []  # So that no other weight gets the place of one that is gone.

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """As the encoder does."""
        if keep_layers or sequence_transform is not None or not self._quick(batch):
            found: Output = self.encoder(batch, keep_layers, sequence_transform)
            return found
        engine = self._engine_of()
        if engine is None:
            return self.encoder(batch)  # type: ignore[no-any-return]
        segment = None if batch.segment is None else batch.segment.numpy()
        packed = check_batch(batch.ids.numpy(), batch.cu_seqlens.numpy(), segment, engine.limits)
        return Output(torch.from_numpy(engine.hidden_states_with_threads(packed, torch.get_num_threads())))

    @property
    def token_embeddings(self) -> Tensor:
        """The word table (V, E)."""
        return self.encoder.token_embeddings

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's, under its own names."""
        return self.encoder.state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder"), name)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        found: nn.Module = copy.deepcopy(self.encoder, memo)
        return found

    def _quick(self, batch: Batch) -> bool:
        if self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        if batch.ids.device.type != "cpu" or self.encoder.token_embeddings.device.type != "cpu":
            return False
        return not self._taken or self._state() == self._taken

    def _state(self) -> list[tuple[int, int, int]]:
        """Which weights there are, where they lie, and how often each was written to."""
        return [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in self.encoder.parameters()]

    def _engine_of(self) -> _packed.PackedEngine | None:
        """None for weights that the engine does not take, which are those that are not finite."""
        with self._lock:
            if not self._taken:
                self._kept, self._taken = list(self.encoder.parameters()), self._state()
                with contextlib.suppress(SettingsError):
                    self._engine = PackedFP32().build(self.original[0])
            return self._engine


def accelerate(model: Model) -> Model:
    """The same model for inference: its encoder runs by `packed_fp32` on a CPU where that can run it; else the model
    itself. It shares the weights, and notices when they change. In evaluation mode."""
    try:
        if kernels("") == "plain":  # Right, and slower than PyTorch.
            return model
        _packed.require_packable(model, name_of(PackedFP32()))
    except SettingsError:
        return model
    weights = list(model.encoder.parameters())
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.is_inference() for weight in weights):
        return model
    found = copy.copy(model)
    found._modules = {**model._modules, "encoder": PackedEncoder(model)}
    return found.eval()


def original_model(model: Model) -> Model:
    """The model as it was before `quick`."""
    encoder: nn.Module = model.encoder
    return encoder.original[0] if isinstance(encoder, PackedEncoder) else model
