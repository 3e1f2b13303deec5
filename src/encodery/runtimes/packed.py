"""A model in the compiled engine (`src/native/`), which runs packed batches without padding.

It runs the layouts of BERT and ModernBERT: post- or pre-norm, absolute or rotary positions, local attention, plain or
gated feed-forward layers, with or without biases. Attention in a window costs what the window spans. A vector is equal
bit for bit whatever else is in the batch and however many threads run it; all threads share one long text.
Shapes: T tokens, H width, N heads, D head size, P the longest text.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.blocks.pre import PreNorm
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.masks.pattern import PatternMask
from encodery.model.masks.window import WindowMask
from encodery.model.network import Model
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear
from encodery.runtimes.batch import CheckedBatch, Limits
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.native import FIRST, HIDDEN, MEAN, EncoderSpec, LayerSpec, NativeEncoder
from encodery.runtimes.supported import PartTypes, require_supported

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # in the order of kernels.hpp
EXTRA_PARTS: dict[str, PartTypes] = {
    "positions": (RotaryPositions,),
    "mask": (AlternatingMask, PatternMask, WindowMask),
}
UNBOUNDED = 1 << 30  # a window larger than any text


class PackedEngine(InferenceEngine):
    """The compiled engine over a copy of a model's weights."""

    def __init__(self, limits: Limits, native: NativeEncoder, threads: int) -> None:
        super().__init__(limits)
        self.native = native
        self.threads = threads

    def hidden_states(self, batch: CheckedBatch) -> np.ndarray:
        return self.hidden_states_with_threads(batch, self.threads)

    def hidden_states_with_threads(self, batch: CheckedBatch, threads: int) -> np.ndarray:
        """Return `hidden_states`, computed by `threads` threads, which change no bit of the result."""
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, HIDDEN, threads)

    def mean_pooled(self, batch: CheckedBatch) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, MEAN, self.threads)

    def first_token(self, batch: CheckedBatch) -> np.ndarray:
        return self.native.run(batch.ids, batch.cu_seqlens, batch.segment, FIRST, self.threads)

    def pool_hidden(self, hidden: np.ndarray, cu_seqlens: np.ndarray, pooling: PoolingMode) -> np.ndarray:
        if pooling == "cls":
            return super().pool_hidden(hidden, cu_seqlens, pooling)
        lengths = np.diff(cu_seqlens)
        order = np.argsort(-lengths, kind="stable")
        starts, descending = cu_seqlens[:-1][order], -lengths[order]
        sums: np.ndarray = hidden[starts]
        # Tokens are added one after another, as the engine does: another order would round differently.
        for position in range(1, int(lengths.max())):
            longer = np.searchsorted(descending, -position)  # number of sequences that are longer than `position`
            sums[:longer] += hidden[starts[:longer] + position]
        means: np.ndarray = np.empty_like(sums)
        means[order] = sums / -descending[:, None].astype(np.float32)
        return means


def build_packed_engine(
    model: Model, number_format: int, threads: int, kernels: str = "", runtime: str = "packed_fp32"
) -> PackedEngine:
    """Copy a model into the compiled engine.

    Args:
        number_format: `native.INT8` or `native.FP32`, what it multiplies.
        kernels: "avx512_vnni", "avx2", "plain", or "" for the best that the processor has.
        runtime: its name, for messages.

    Raises `SettingsError` for a model that the engine does not support, or weights that are not finite.
    """
    require_packable(model, runtime)
    weights = _Weights(runtime)
    layers = [weights.layer(block, model) for block in model.encoder.layer_blocks]
    native = NativeEncoder(weights.encoder(model, number_format), layers, kernels, weights.arrays)
    return PackedEngine(Limits.of(model.settings), native, threads)


def require_packable(model: Model, engine: str) -> None:
    """Raise `SettingsError` that names the first part which the compiled engine, called `engine`, does not support."""
    settings = model.settings
    require_supported(settings, engine, ACTIVATIONS, EXTRA_PARTS)
    if settings.shape.head_size % 8:
        raise SettingsError(
            f"head_size = {settings.shape.head_size}: {engine} supports only multiples of 8. Use the runtime 'torch'."
        )
    for shape in settings.layer_shapes:
        if not (shape.heads and shape.intermediate_size):
            lacking = "feed-forward" if shape.heads else "attention"
            raise SettingsError(
                f"layers: layer {shape.layer} has no {lacking}, and {engine} supports only layers with both sublayers. "
                "Use the runtime 'torch'."
            )
    for name, module in model.encoder.blocks.named_modules():
        if isinstance(module, nn.Linear) and type(module) is not Linear:
            raise SettingsError(
                f"blocks.{name}: is a {type(module).__name__}, which {engine} does not support. "
                "Merge it into the weights, or use the runtime 'torch'."
            )


class _Weights:
    """Converts weights to what the engine reads; `arrays` keeps alive what it points at."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.arrays: list[np.ndarray] = []
        self._angles: dict[tuple[bool, int], tuple[int, int]] = {}

    def address(self, tensor: Tensor | None) -> int:
        """Return the address of a float32 copy; 0 for None."""
        if tensor is None:
            return 0
        array = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
        if not np.isfinite(array).all():
            raise SettingsError(f"runtime = '{self.runtime}': a weight of the model is not finite.")
        self.arrays.append(array)
        return int(array.ctypes.data)

    def norm(self, module: nn.Module) -> tuple[int, int, float]:
        """Return gain, bias and eps; a gain of 0 means that there is no norm."""
        if not isinstance(module, nn.LayerNorm):
            return 0, 0, 0.0
        return self.address(module.weight), self.address(module.bias), module.eps

    def encoder(self, model: Model, number_format: int) -> EncoderSpec:
        encoder: Any = model.encoder
        settings = model.settings
        positions = None
        if isinstance(settings.positions, LearnedPositions):
            positions = encoder.positions.table.weight[settings.positions.offset :]
        segments = encoder.embeddings.segment
        gain, bias, eps = self.norm(encoder.embedding_norm)
        final_gain, final_bias, final_eps = self.norm(encoder.final_norm)
        return EncoderSpec(
            token_embeddings=self.address(encoder.token_embeddings),
            position_embeddings=self.address(positions),
            segment_embeddings=self.address(None if segments is None else segments.weight),
            norm_gain=gain,
            norm_bias=bias,
            final_gain=final_gain,
            final_bias=final_bias,
            norm_eps=eps,
            final_eps=final_eps,
            width=settings.width,
            number_format=number_format,
        )

    def angles(self, positions: Any, shape: Shape) -> tuple[int, int]:
        """Return cosines and sines (P, D/2) of rotary positions in a layer: what a query of ones and zeros becomes."""
        key = (shape.reach.is_local, shape.head_size)
        if key not in self._angles:
            count, half = shape.max_length, shape.head_size // 2
            ones = torch.zeros(count, 3, 2, half)
            ones[:, :, 0] = 1
            layout = Layout(torch.tensor([0, count], dtype=torch.int32), count, count)
            with torch.no_grad():
                rotated = positions.rotate(ones.view(count, -1), layout, dataclasses.replace(shape, heads=1))
            cosines, sines = rotated.view(count, 3, 2, half)[:, 0].unbind(1)
            self._angles[key] = self.address(cosines), self.address(sines)
        return self._angles[key]

    def layer(self, block: Any, model: Model) -> LayerSpec:
        """Return one layer. Sizes are read from its weights, since layers need not be equal."""
        attention, ffn, shape, settings = block.attention, block.ffn, block.attention.shape, model.settings
        ffn_settings: Any = settings.ffn
        rotary = isinstance(settings.positions, RotaryPositions)
        cosines, sines = self.angles(model.encoder.positions, shape) if rotary else (0, 0)
        gain, bias, eps = self.norm(block.attention_norm)
        ffn_gain, ffn_bias, ffn_eps = self.norm(block.ffn_norm)
        linears = {"qkv": attention.qkv, "out": attention.out, "up": ffn.up, "down": ffn.down}
        return LayerSpec(
            **{name: self.address(module.weight) for name, module in linears.items()},
            **{f"{name}_bias": self.address(module.bias) for name, module in linears.items()},
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
            intermediate_size=ffn.down.in_features,
            gated=int(ffn.up.out_features != ffn.down.in_features),
            activation=ACTIVATIONS.index(ffn_settings.activation),
            pre_norm=int(isinstance(settings.block, PreNorm)),
            window=UNBOUNDED if shape.reach.left is None else shape.reach.left,
        )
