"""A model in the compiled engine (`src/native/`), for the runtimes that differ in what it multiplies.

It runs the layouts of BERT and ModernBERT: post- or pre-norm, absolute or rotary positions, windows, plain or gated
feed-forward layers, with or without biases. No padding; a window costs what it spans. A vector is the same bit for bit
whatever stands beside it and on however many threads; all threads share one text.
Shapes: T tokens, H width, N heads, D head size, P the longest text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base import machine
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.blocks.pre import PreNorm
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.masks.pattern import PatternMask
from encodery.model.masks.window import WindowMask
from encodery.model.network import Model
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear
from encodery.runtimes import InferenceEngine, PoolingMode, Runtime, _known
from encodery.runtimes._checked import CheckedBatch, Limits
from encodery.runtimes._native import FIRST, HIDDEN, MEAN, EncoderSpec, LayerSpec, NativeEncoder

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # In the order of kernels.hpp.
EXTRA_PARTS: dict[str, _known.PartTypes] = {
    "positions": (RotaryPositions,),
    "mask": (AlternatingMask, PatternMask, WindowMask),
}
UNBOUNDED = 1 << 30  # A window that no text fills.


@dataclass(frozen=True, kw_only=True)
class PackedRuntime(Runtime):
    """What the runtimes of the compiled engine share. `numbers`: what it multiplies, as in kernels.hpp."""

    number_format: ClassVar[int]
    threads: int | None = None
    kernels: Literal["avx512_vnni", "avx2", "plain"] | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise SettingsError(f"threads = {self.threads}: must lie in 1 … 1024.")

    def build(self, model: Model) -> PackedEngine:
        door = name_of(self)
        require_packable(model, door)
        weights = _Weights(door)
        native = NativeEncoder(
            weights.encoder(model, self.number_format),
            [weights.layer(block, model) for block in model.encoder.blocks],
            self.kernels or "",
            weights.kept,
        )
        return PackedEngine(Limits.of(model.settings), native, self.threads or machine.threads())


class PackedEngine(InferenceEngine):
    """The compiled engine over a model's weights, its products of `numbers`."""

    def __init__(self, limits: Limits, native: NativeEncoder, threads: int) -> None:
        super().__init__(limits)
        self.native = native
        self.threads = threads

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        return self.hidden_states_with_threads(batch, self.threads)

    def hidden_states_with_threads(self, batch: CheckedBatch, threads: int) -> np.ndarray:
        """`hidden` by so many threads, which change no bit of it."""
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, HIDDEN, threads)

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, MEAN, self.threads)

    def pool_hidden(self, hidden: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode) -> np.ndarray:
        if pooling == "cls":
            return super().pool_hidden(hidden, cu_seqlens, pooling)
        lengths = np.diff(cu_seqlens)
        order = np.argsort(-lengths, kind="stable")
        starts, falling = cu_seqlens[:-1][order], -lengths[order]
        summed: np.ndarray = hidden[starts]
        for place in range(1, int(lengths.max())):  # Token after token, as the engine adds: another order rounds anew.
            count = np.searchsorted(falling, -place)  # Sequences that are longer.
            summed[:count] += hidden[starts[:count] + place]
        means: np.ndarray = np.empty_like(summed)
        means[order] = summed / -falling[:, None].astype(np.float32)
        return means

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, FIRST, self.threads)


def require_packable(model: Model, engine: str) -> None:
    """Raises `SettingsError` naming the first part that the engine, called `door`, does not have."""
    settings = model.settings
    _known.require_supported(settings, engine, ACTIVATIONS, EXTRA_PARTS)
    if settings.shape.head_size % 8:
        raise SettingsError(
            f"head_size = {settings.shape.head_size}: {engine} has only multiples of 8. Use the runtime 'torch'."
        )
    for name, module in model.encoder.blocks.named_modules():
        if isinstance(module, nn.Linear) and type(module) is not Linear:
            raise SettingsError(
                f"blocks.{name}: computes with more than its weight ({type(module).__name__}), which {engine} does not. "
                "Merge it into the weights, or use the runtime 'torch'."
            )


class _Weights:
    """Addresses of weights as the engine wants them; `kept` holds the arrays alive."""

    def __init__(self, door: str) -> None:
        self.door = door
        self.kept: list[np.ndarray] = []
        self._angles: dict[tuple[bool, int], tuple[int, int]] = {}

    def at(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
        if not np.isfinite(array).all():
            raise SettingsError(f"runtime = '{self.door}': a weight of the model is not finite.")
        self.kept.append(array)
        return int(array.ctypes.data)

    def norm(self, module: nn.Module) -> tuple[int, int, float]:
        """Gain, bias and eps; no gain where there is no norm."""
        if not isinstance(module, nn.LayerNorm):
            return 0, 0, 0.0
        return self.at(module.weight), self.at(module.bias), module.eps

    def encoder(self, model: Model, numbers: int) -> EncoderSpec:
        encoder: Any = model.encoder
        settings = model.settings
        positions = None
        if isinstance(settings.positions, LearnedPositions):
            positions = encoder.positions.table.weight[settings.positions.offset :]
        segments = encoder.embeddings.segment
        gain, bias, eps = self.norm(encoder.embedding_norm)
        final_gain, final_bias, final_eps = self.norm(encoder.final_norm)
        return EncoderSpec(
            words=self.at(encoder.token_embeddings),
            positions=self.at(positions),
            segments=self.at(None if segments is None else segments.weight),
            norm_gain=gain,
            norm_bias=bias,
            final_gain=final_gain,
            final_bias=final_bias,
            norm_eps=eps,
            final_eps=final_eps,
            width=settings.width,
            numbers=numbers,
        )

    def angles(self, positions: Any, shape: Shape) -> tuple[int, int]:
        """Cosines and sines (P, D/2) of rotary positions in a layer: what becomes of a query of ones and zeros."""
        key = (shape.window is None, shape.head_size)
        if key not in self._angles:
            count, half = shape.max_length, shape.head_size // 2
            upright = torch.zeros(count, 3, 2, half)
            upright[:, :, 0] = 1
            layout = Layout(torch.tensor([0, count], dtype=torch.int32), count, count)
            with torch.no_grad():
                turned = positions.rotate(upright.view(count, -1), layout, dataclasses.replace(shape, heads=1))
            cosines, sines = turned.view(count, 3, 2, half)[:, 0].unbind(1)
            self._angles[key] = self.at(cosines), self.at(sines)
        return self._angles[key]

    def layer(self, block: Any, model: Model) -> LayerSpec:
        """One layer. Sizes are its own: layers need not be equal."""
        attention, ffn, shape, settings = block.attention, block.ffn, block.attention.shape, model.settings
        made_of: Any = settings.ffn
        rotary = isinstance(settings.positions, RotaryPositions)
        cosines, sines = self.angles(model.encoder.positions, shape) if rotary else (0, 0)
        gain, bias, eps = self.norm(block.attention_norm)
        ffn_gain, ffn_bias, ffn_eps = self.norm(block.ffn_norm)
        return LayerSpec(
            **{name: self.at(module.weight) for name, module in self._linears(attention, ffn)},
            **{f"{name}_bias": self.at(module.bias) for name, module in self._linears(attention, ffn)},
            attention_gain=gain,
            attention_bias=bias,
            ffn_gain=ffn_gain,
            ffn_bias=ffn_bias,
            cosines=cosines,
            sines=sines,
            attention_eps=eps,
            ffn_eps=ffn_eps,
            heads=attention.qkv.out_features // (3 * shape.head_size),
            head_size=shape.head_size,
            inner=ffn.down.in_features,
            gated=int(ffn.up.out_features != ffn.down.in_features),
            activation=ACTIVATIONS.index(made_of.activation),
            pre=int(isinstance(settings.block, PreNorm)),
            window=UNBOUNDED if shape.window is None else shape.window,
        )

    @staticmethod
    def _linears(attention: Any, ffn: Any) -> list[tuple[str, Any]]:
        return [("qkv", attention.qkv), ("out", attention.out), ("up", ffn.up), ("down", ffn.down)]
