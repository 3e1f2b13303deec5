"""8-bit integers on the CPU, by an engine of our own in C++ (`src/native/`). After arXiv:1910.06188, without training.

Weights have a scale for each output channel, activations one for each token, found as they come: no calibration, and a
vector is the same bit for bit whatever stands beside it and on however many threads. No padding. Products are of 8-bit
integers, everything between (norms, softmax, GELU, residual sums) is float32. One long text is shared by all threads.

Differs from `torch`: hidden states are near the model's, not equal to them; plain and post- or pre-norm BERT with
absolute positions only. A change of the model needs a new engine.
Shapes: T tokens, H width, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.model.attention.full import Full
from encodery.model.blocks.post import Post
from encodery.model.blocks.pre import Pre
from encodery.model.embeddings.plain import Plain
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mlp import MLP
from encodery.model.masks.document import Document
from encodery.model.network import Model, ModelSettings
from encodery.model.norms.layer import Layer
from encodery.model.positions.learned import Learned
from encodery.model.positions.none import Nothing
from encodery.runtimes import Engine, Runtime
from encodery.runtimes._checked import Limits, Packed
from encodery.runtimes._native import FIRST, HIDDEN, MEAN, EncoderSpec, LayerSpec, NativeEncoder

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # In the order of kernels.hpp.


@dataclass(frozen=True, kw_only=True)
class PackedInt8(Runtime):
    """`threads`: None for as many as the process may use. `kernels`: None for the best that the processor has; "plain"
    is the reference that the others are tested against, and slow."""

    threads: int | None = None
    kernels: Literal["avx512_vnni", "avx2", "plain"] | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise SettingsError(f"threads = {self.threads}: must lie in 1 … 1024.")

    def build(self, model: Model) -> Engine:
        refuse(model.settings)
        weights = _Weights()
        native = NativeEncoder(
            weights.encoder(model),
            [weights.layer(block, model.settings) for block in model.encoder.blocks],
            self.kernels or "",
            weights.kept,
        )
        return _PackedInt8Engine(Limits.of(model.settings), native, self.threads or machine.threads())


class _PackedInt8Engine(Engine):
    def __init__(self, limits: Limits, native: NativeEncoder, threads: int) -> None:
        super().__init__(limits)
        self.native = native
        self.threads = threads

    def hidden(self, batch: Packed) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, HIDDEN, self.threads)

    def mean(self, batch: Packed) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, MEAN, self.threads)

    def first(self, batch: Packed) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, FIRST, self.threads)


def refuse(settings: ModelSettings) -> None:
    """Raises `SettingsError` naming the first part that the engine does not have."""
    known: tuple[tuple[str, Part, tuple[type[Part], ...]], ...] = (
        ("embeddings", settings.embeddings, (Plain,)),
        ("positions", settings.positions, (Learned, Nothing)),
        ("attention", settings.attention, (Full,)),
        ("mask", settings.mask, (Document,)),
        ("ffn", settings.ffn, (MLP, GLU)),
        ("norm", settings.norm, (Layer,)),
        ("block", settings.block, (Post, Pre)),
    )
    for place, part, allowed in known:
        if type(part) not in allowed:
            names = ", ".join(name_of(one) for one in allowed)
            raise SettingsError(
                f"runtime = 'packed_int8': has no {place} '{name_of(part)}', only {names}. Use the runtime 'torch'."
            )
    ffn: Any = settings.ffn
    if ffn.activation not in ACTIVATIONS:
        raise SettingsError(
            f"runtime = 'packed_int8': has no activation '{ffn.activation}', only {', '.join(ACTIVATIONS)}. "
            "Use the runtime 'torch'."
        )
    if settings.inserts:
        raise SettingsError("runtime = 'packed_int8': runs no inserts. Use the runtime 'torch'.")
    if settings.shape.head_size % 8:
        raise SettingsError(
            f"runtime = 'packed_int8': a head size of {settings.shape.head_size} is no multiple of 8. "
            "Use the runtime 'torch'."
        )


class _Weights:
    """Addresses of weights as the engine wants them; `kept` holds the arrays alive."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def at(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
        if not np.isfinite(array).all():
            raise SettingsError("runtime = 'packed_int8': a weight of the model is not finite.")
        self.kept.append(array)
        return int(array.ctypes.data)

    def norm(self, module: nn.Module) -> tuple[int, int, float]:
        """Gain, bias and eps; no gain where there is no norm."""
        if not isinstance(module, nn.LayerNorm):
            return 0, 0, 0.0
        return self.at(module.weight), self.at(module.bias), module.eps

    def encoder(self, model: Model) -> EncoderSpec:
        encoder: Any = model.encoder
        settings = model.settings
        positions = None
        if isinstance(settings.positions, Learned):
            positions = encoder.positions.table.weight[settings.positions.offset :]
        segments = encoder.embeddings.segment
        gain, bias, eps = self.norm(encoder.embedding_norm)
        final_gain, final_bias, final_eps = self.norm(encoder.final_norm)
        return EncoderSpec(
            words=self.at(encoder.words),
            positions=self.at(positions),
            segments=self.at(None if segments is None else segments.weight),
            norm_gain=gain,
            norm_bias=bias,
            final_gain=final_gain,
            final_bias=final_bias,
            norm_eps=eps,
            final_eps=final_eps,
            width=settings.width,
        )

    def layer(self, block: Any, settings: ModelSettings) -> LayerSpec:
        """One layer. Sizes are its own: layers need not be equal."""
        attention, ffn, shape = block.attention, block.ffn, block.attention.shape
        made_of: Any = settings.ffn
        gain, bias, eps = self.norm(block.attention_norm)
        ffn_gain, ffn_bias, ffn_eps = self.norm(block.ffn_norm)
        return LayerSpec(
            **{name: self.at(module.weight) for name, module in self._linears(attention, ffn)},
            **{f"{name}_bias": self.at(module.bias) for name, module in self._linears(attention, ffn)},
            attention_gain=gain,
            attention_bias=bias,
            ffn_gain=ffn_gain,
            ffn_bias=ffn_bias,
            attention_eps=eps,
            ffn_eps=ffn_eps,
            heads=attention.qkv.out_features // (3 * shape.head_size),
            head_size=shape.head_size,
            inner=ffn.down.in_features,
            gated=int(ffn.up.out_features != ffn.down.in_features),
            activation=ACTIVATIONS.index(made_of.activation),
            pre=int(isinstance(settings.block, Pre)),
        )

    @staticmethod
    def _linears(attention: Any, ffn: Any) -> list[tuple[str, Any]]:
        return [("qkv", attention.qkv), ("out", attention.out), ("up", ffn.up), ("down", ffn.down)]
