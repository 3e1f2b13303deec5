"""A model's encoder for inference on the CPU that runs in the compiled engine where it can: equal to rounding, faster.

Other calls go to the encoder itself: those that ask for lower layers, gradients, a sequence transform, training, lower
precision or another device, and all calls after a weight was changed or replaced since the engine copied it. The engine
is built at the first call that needs it and uses as many threads as PyTorch does in the caller.
Shapes: T tokens, H width, E embedding size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import Any

import torch
from torch import Tensor, nn

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.model.network import Model
from encodery.model.sequence_transform import SequenceTransform
from encodery.model.shape import Batch, Output
from encodery.runtimes.batch import check_batch
from encodery.runtimes.native import FP32, kernels
from encodery.runtimes.packed import PackedEngine, build_packed_engine, require_packable


class PackedEncoder(nn.Module):
    """Takes the place of a model's encoder, which it holds, and whose attributes it has."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.original = (model,)  # in a tuple, so that it is no submodule
        self._lock = threading.Lock()
        self._engine: PackedEngine | None = None
        self._copied: list[tuple[int, int, int]] = []
        self._weights: list[Tensor] = []  # keeps the weights alive, so that no other tensor gets the id of one

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """Return what the encoder returns."""
        if keep_layers or sequence_transform is not None or not self._can_run(batch):
            output: Output = self.encoder(batch, keep_layers, sequence_transform)
            return output
        engine = self._built_engine()
        if engine is None:
            return self.encoder(batch)  # type: ignore[no-any-return]
        segment = None if batch.segment is None else batch.segment.numpy()
        checked = check_batch(batch.ids.numpy(), batch.cu_seqlens.numpy(), segment, engine.limits)
        return Output(torch.from_numpy(engine.hidden_states_with_threads(checked, torch.get_num_threads())))

    @property
    def token_embeddings(self) -> Tensor:
        """The encoder's token embeddings (V, E)."""
        return self.encoder.token_embeddings

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the encoder's state under the encoder's own names."""
        return self.encoder.state_dict(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder"), name)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        encoder: nn.Module = copy.deepcopy(self.encoder, memo)
        return encoder

    def _can_run(self, batch: Batch) -> bool:
        if self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return False
        if batch.ids.device.type != "cpu" or self.encoder.token_embeddings.device.type != "cpu":
            return False
        if not batch.reach.is_unlimited or batch.prefix is not None:
            return False
        return not self._copied or self._versions() == self._copied

    def _versions(self) -> list[tuple[int, int, int]]:
        """Identity, address and version counter of every weight."""
        return [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in self.encoder.parameters()]

    def _built_engine(self) -> PackedEngine | None:
        """The engine; None if it refuses the weights because they are not finite."""
        with self._lock:
            if not self._copied:
                self._weights, self._copied = list(self.encoder.parameters()), self._versions()
                with contextlib.suppress(SettingsError):
                    self._engine = build_packed_engine(self.original[0], FP32, machine.threads())
            return self._engine


def accelerate(model: Model) -> Model:
    """Return the model for inference, its encoder a `PackedEncoder` if the compiled engine supports it.

    Otherwise the model itself is returned. The weights are shared, and changes to them are noticed. The result is in
    evaluation mode.
    """
    try:
        if kernels("") == "plain":  # correct, and slower than PyTorch
            return model
        require_packable(model, "packed_fp32")
    except SettingsError:
        return model
    weights = list(model.encoder.parameters())
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.is_inference() for weight in weights):
        return model
    accelerated = copy.copy(model)
    accelerated._modules = {**model._modules, "encoder": PackedEncoder(model)}
    return accelerated.eval()


def original_model(model: Model) -> Model:
    """Return the model that `accelerate` was called with."""
    encoder: nn.Module = model.encoder
    return encoder.original[0] if isinstance(encoder, PackedEncoder) else model
