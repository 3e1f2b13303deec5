"""Builds the ONNX graph of a model, in the form of classic BERT exports, for engines that read ONNX.

It is written operator by operator: what an exporter traces changes with its version, and ONNX Runtime fuses attention,
biases with GELU, and residual sums with norms only if it finds exactly these nodes in exactly this order. Padding is on
the right.
Shapes: T tokens, B sequences, L the longest of them, H width, N heads, D head size, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.extras import require
from encodery.model.blocks.post import PostNorm
from encodery.model.digest import weights_digest
from encodery.model.ffn.mlp import MLP
from encodery.model.network import Model
from encodery.model.positions.learned import LearnedPositions
from encodery.model.settings import ModelSettings
from encodery.runtimes.supported import require_supported

FUSED_OPSET, QUANTISED_OPSET = 12, 17
"""Operator sets. In the older one the axes of Unsqueeze are where the fusion of attention looks for them; scales for
each channel need at least 13."""
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")
IDS, MASK, SEGMENTS, HIDDEN = "input_ids", "attention_mask", "token_type_ids", "last_hidden_state"
MASK_BIAS = -10_000.0  # what the fusion looks for; its exponential is 0 in float32


def require_exportable(settings: ModelSettings, target: str) -> None:
    """Raise `SettingsError` that names the first part which the graph does not support; `target` is what it is for."""
    require_supported(settings, target, ACTIVATIONS)


def encoder_digest(model: Model) -> str:
    """Return 32 hexadecimal digits that differ if the encoder's weights or shape differ."""
    return weights_digest(
        model.encoder.state_dict(), prefix=repr((model.settings.shape, model.settings.layers)).encode()
    )


@dataclass(frozen=True, eq=False)
class QuantisedLinear:
    """A linear layer in 8 bits. Its inputs x (I,) become round(x / divisor / step) + zero, unsigned; its weights (O, I)
    are `weights` · steps (O,), to be multiplied by x / divisor."""

    divisor: np.ndarray
    step: np.float32
    zero: int
    weights: np.ndarray
    steps: np.ndarray


def build_graph(model: Model, layers: Mapping[str, QuantisedLinear] | None = None) -> Any:
    """Return the encoder as an `onnx.ModelProto`: ids, mask, segments (B, L) int64 → hidden states (B, L, H) float32.

    `layers`: the linear layers to quantise to 8 bits, by their modules' names. Raises `SettingsError` for a part that
    the graph does not support, `MissingExtra` without the package `onnx`.
    """
    require_exportable(model.settings, "an ONNX graph")
    writer = _Writer(layers or {}, FUSED_OPSET if layers is None else QUANTISED_OPSET)
    writer.encoder(model)
    return writer.model(model.settings)


class _Writer:
    """Collects the `nodes` and `weights` of a graph. A method adds nodes and returns the name of their output."""

    def __init__(self, layers: Mapping[str, QuantisedLinear], opset: int) -> None:
        self.onnx = require("onnx", "onnx")
        self.layers, self.opset = layers, opset
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self.value_info: list[Any] = []

    def shaped(self, name: str, width: int) -> Any:
        """Declare the shape of a value. An engine does not know how many positions the slice leaves, and so would not
        know that both sides of a residual sum have the same shape; it would then not fuse the sum with its norm."""
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, ["batch", "length", width])

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        array = np.ascontiguousarray(values)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SettingsError(f"'{name}': a weight of the model is not finite.")
        self.weights[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def number(self, value: float) -> str:
        return self.weight(f"value_{value!r}", np.array(value, np.float32))

    def whole(self, *values: int) -> str:
        return self.weight("whole_" + "_".join(map(str, values)), np.array(values, np.int64))

    def encoder(self, model: Model) -> None:
        encoder: Any = model.encoder
        settings = model.settings
        x = self.node("Gather", self.weight("token_embeddings", _array(encoder.token_embeddings)), IDS)
        if settings.type_vocab_size:
            segments = self.weight("segments", _array(encoder.embeddings.segment.weight))
            x = self.node("Add", x, self.node("Gather", segments, SEGMENTS))
        if isinstance(settings.positions, LearnedPositions):
            x = self.node("Add", x, self.positions(_array(encoder.positions.table.weight)[settings.positions.offset :]))
            self.value_info = [self.shaped(x, settings.width)]
        x = self.norm(x, encoder.embedding_norm, "embedding_norm")
        mask = self.mask()
        for number, block in zip(encoder.groups, encoder.layer_blocks, strict=True):
            step = self.post if isinstance(settings.block, PostNorm) else self.pre
            x = step(x, block, settings, mask, f"blocks.{number}")
        x = self.norm(x, encoder.final_norm, "final_norm")
        self.nodes.append(self.onnx.helper.make_node("Identity", [x], [HIDDEN], name=HIDDEN))

    def positions(self, table: np.ndarray) -> str:
        length = self.node("Gather", self.node("Shape", IDS), self.whole(1), axis=0)
        return self.node("Slice", self.weight("positions", table), self.whole(0), length, self.whole(0))

    def mask(self) -> str:
        """Return (B, 1, 1, L): what is added to the attention scores."""
        wide = MASK
        for axis in (1, 2):
            if self.opset == FUSED_OPSET:
                wide = self.node("Unsqueeze", wide, axes=[axis])
            else:
                wide = self.node("Unsqueeze", wide, self.whole(axis))
        real = self.node("Cast", wide, to=self.onnx.TensorProto.FLOAT)
        return self.node("Mul", self.node("Sub", self.number(1.0), real), self.number(MASK_BIAS))

    def post(self, x: str, block: Any, settings: ModelSettings, mask: str, name: str) -> str:
        if block.has_attention:
            mixed = self.attention(x, block.attention, mask, f"{name}.attention")
            x = self.norm(self.node("Add", mixed, x), block.attention_norm, f"{name}.attention_norm")
        if not block.has_ffn:
            return x
        fed = self.ffn(x, block.ffn, settings.ffn, f"{name}.ffn")
        return self.norm(self.node("Add", fed, x), block.ffn_norm, f"{name}.ffn_norm")

    def pre(self, x: str, block: Any, settings: ModelSettings, mask: str, name: str) -> str:
        if block.has_attention:
            normed = self.norm(x, block.attention_norm, f"{name}.attention_norm")
            x = self.node("Add", self.attention(normed, block.attention, mask, f"{name}.attention"), x)
        if not block.has_ffn:
            return x
        normed = self.norm(x, block.ffn_norm, f"{name}.ffn_norm")
        return self.node("Add", self.ffn(normed, block.ffn, settings.ffn, f"{name}.ffn"), x)

    def attention(self, x: str, module: Any, mask: str, name: str) -> str:
        """Sizes are read from the weights, since heads may have been pruned."""
        size = module.shape.head_size
        inner = module.qkv.out_features // 3
        x = self.quantised(x, f"{name}.qkv")
        projected = {}
        for place, which in enumerate(("query", "key", "value")):
            flat = self.affine(
                x, module.qkv, f"{name}.{which}", f"{name}.qkv", slice(place * inner, (place + 1) * inner)
            )
            split = self.node("Reshape", flat, self.whole(0, 0, inner // size, size))
            projected[which] = self.node("Transpose", split, perm=[0, 2, 3, 1] if which == "key" else [0, 2, 1, 3])
        products = self.node("MatMul", projected["query"], projected["key"])
        scores = self.node("Div", products, self.number(math.sqrt(size)))
        weights = self.node("Softmax", self.node("Add", scores, mask), axis=3)
        mixed = self.node("Transpose", self.node("MatMul", weights, projected["value"]), perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", mixed, self.whole(0, 0, inner)), module.out, f"{name}.out")

    def ffn(self, x: str, module: Any, ffn_settings: Any, name: str) -> str:
        if isinstance(ffn_settings, MLP):
            inside = self.activate(self.linear(x, module.up, f"{name}.up"), ffn_settings.activation)
            return self.linear(inside, module.down, f"{name}.down")
        x = self.quantised(x, f"{name}.up")
        inner = module.down.in_features
        gate, value = (
            self.affine(x, module.up, f"{name}.{half}", f"{name}.up", rows)
            for half, rows in (("gate", slice(inner)), ("value", slice(inner, None)))
        )
        product = self.node("Mul", self.activate(gate, ffn_settings.activation), value)
        return self.linear(product, module.down, f"{name}.down")

    def activate(self, x: str, name: str) -> str:
        if name == "relu":
            return self.node("Relu", x)
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        if name == "identity":
            return x
        if name == "gelu":
            inner = self.node("Erf", self.node("Div", x, self.number(math.sqrt(2.0))))
        else:
            cube = self.node("Mul", self.node("Mul", x, self.node("Mul", x, x)), self.number(0.044715))
            inner = self.node("Tanh", self.node("Mul", self.node("Add", x, cube), self.number(math.sqrt(2 / math.pi))))
        return self.node("Mul", self.node("Mul", x, self.node("Add", inner, self.number(1.0))), self.number(0.5))

    def linear(self, x: str, module: nn.Linear, name: str) -> str:
        return self.affine(self.quantised(x, name), module, name, name, slice(None))

    def quantised(self, x: str, layer: str) -> str:
        """Quantise the inputs of a layer and dequantise them, if it is to be 8-bit: engines remove the pair again."""
        if layer not in self.layers:
            return x
        quantised = self.layers[layer]
        x = self.node("Mul", x, self.weight(f"{layer}.smoothing", (1 / quantised.divisor).astype(np.float32)))
        step = self.weight(f"{layer}.step", np.array(quantised.step, np.float32))
        zero = self.weight(f"{layer}.zero", np.array(quantised.zero, np.uint8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, step, zero), step, zero)

    def affine(self, x: str, module: nn.Linear, name: str, layer: str, rows: slice) -> str:
        """Return x Wᵀ + b for some of the outputs. A missing bias is written as zeros: the fusions look for it."""
        if layer in self.layers:
            quantised = self.layers[layer]
            values = self.weight(f"{name}.weight", quantised.weights[rows].T)
            steps = self.weight(f"{name}.weight_scale", quantised.steps[rows].astype(np.float32))
            zeros = self.weight(f"{name}.weight_zero", np.zeros(len(quantised.steps[rows]), np.int8))
            weight = self.node("DequantizeLinear", values, steps, zeros, axis=1)
        else:
            weight = self.weight(f"{name}.weight", _array(module.weight)[rows].T)
        product = self.node("MatMul", x, weight)
        bias = np.zeros(module.out_features, np.float32) if module.bias is None else _array(module.bias)
        return self.node("Add", product, self.weight(f"{name}.bias", bias[rows]))

    def norm(self, x: str, module: nn.Module, name: str) -> str:
        """Write a norm in single steps, which every version of every engine recognises."""
        if not isinstance(module, nn.LayerNorm):
            return x
        centred = self.node("Sub", x, self.node("ReduceMean", x, axes=[-1], keepdims=1))
        variance = self.node("ReduceMean", self.node("Pow", centred, self.number(2.0)), axes=[-1], keepdims=1)
        std = self.node("Sqrt", self.node("Add", variance, self.number(module.eps)))
        gain, bias = _array(module.weight), module.bias
        scaled = self.node("Mul", self.node("Div", centred, std), self.weight(f"{name}.weight", gain))
        offset = np.zeros_like(gain) if bias is None else _array(bias)
        return self.node("Add", scaled, self.weight(f"{name}.bias", offset))

    def model(self, settings: ModelSettings) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        names = [IDS, MASK, *([SEGMENTS] if settings.type_vocab_size else [])]
        inputs = [helper.make_tensor_value_info(name, types.INT64, ["batch", "length"]) for name in names]
        out, weights = self.shaped(HIDDEN, settings.width), list(self.weights.values())
        graph = helper.make_graph(self.nodes, "encoder", inputs, [out], weights, value_info=self.value_info)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="encodery", ir_version=8)
        self.onnx.checker.check_model(model)
        return model


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to("cpu", torch.float32).numpy()
    return array
