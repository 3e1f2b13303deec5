"""A model as an ONNX graph, in the shape that classic BERT exports have, for engines that take ONNX.

Written operator by operator: what an exporter traces changes with its version, and ONNX Runtime fuses attention, biases
with GELU, and residual sums with norms only where it finds just these nodes in just this order. Padding is on the
right.
Shapes: T tokens, B sequences, L the longest of them, H width, N heads, D head size, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import hashlib
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
from encodery.model.ffn.mlp import MLP
from encodery.model.network import Model
from encodery.model.positions.learned import LearnedPositions
from encodery.model.settings import ModelSettings
from encodery.runtimes import _known

FUSED_OPSET, QUANTISED_OPSET = 12, 17
"""Versions of the operators. The older one has the axes of Unsqueeze where the fusion of attention looks for them;
scales for each channel need one from 13 up."""
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")
IDS, MASK, SEGMENTS, HIDDEN = "input_ids", "attention_mask", "token_type_ids", "last_hidden_state"
MASK_BIAS = -10_000.0  # What the fusion looks for; its exponential is 0 in float32.


def require_exportable(settings: ModelSettings, target: str) -> None:
    """Raises `SettingsError` naming the first part that the graph does not have; `door` is where it was to go."""
    _known.require_supported(settings, target, ACTIVATIONS)


def encoder_digest(model: Model) -> str:
    """Differs when the encoder's weights or settings do."""
    found = hashlib.sha256(repr(model.settings.shape).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy()).data)
    return found.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class QuantisedLinear:
    """A linear layer in 8 bits: its inputs x (I,) become round(x / divisor / step) + zero, without sign; its weights
    (O, I) are `weights` · steps (O,), to be met by x / divisor."""

    divisor: np.ndarray
    step: np.float32
    zero: int
    weights: np.ndarray
    steps: np.ndarray


def build_graph(model: Model, layers: Mapping[str, QuantisedLinear] | None = None) -> Any:
    """The encoder as an `onnx.ModelProto`: ids, mask and segments (B, L) int64 → hidden states (B, L, H) float32.

    `layers`: the linear layers that are to be 8-bit, by their modules' names. Raises `SettingsError` for a part it has
    not, `MissingExtra` without the package `onnx`.
    """
    require_exportable(model.settings, "an ONNX graph")
    writer = _Writer(layers or {}, FUSED_OPSET if layers is None else QUANTISED_OPSET)
    writer.encoder(model)
    return writer.finished(model.settings)


class _Writer:
    """`nodes` and `weights` so far. A method adds nodes and returns the name of what they give."""

    def __init__(self, layers: Mapping[str, QuantisedLinear], version: int) -> None:
        self.onnx = require("onnx", "onnx")
        self.layers, self.version = layers, version
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self.known: list[Any] = []

    def shaped(self, name: str, width: int) -> Any:
        """Said in the open, for an engine does not know how many positions are cut off, and from there on would not
        know whether the two sides of a residual sum have one shape: it then leaves the sum apart from its norm."""
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
        x = self.node("Gather", self.weight("words", _array(encoder.token_embeddings)), IDS)
        if settings.type_vocab_size:
            segments = self.weight("segments", _array(encoder.embeddings.segment.weight))
            x = self.node("Add", x, self.node("Gather", segments, SEGMENTS))
        if isinstance(settings.positions, LearnedPositions):
            x = self.node("Add", x, self.positions(_array(encoder.positions.table.weight)[settings.positions.offset :]))
            self.known = [self.shaped(x, settings.width)]
        x = self.norm(x, encoder.embedding_norm, "embedding_norm")
        mask = self.mask()
        for number, block in enumerate(encoder.blocks):
            step = self.post if isinstance(settings.block, PostNorm) else self.pre
            x = step(x, block, settings, mask, f"blocks.{number}")
        x = self.norm(x, encoder.final_norm, "final_norm")
        self.nodes.append(self.onnx.helper.make_node("Identity", [x], [HIDDEN], name=HIDDEN))

    def positions(self, table: np.ndarray) -> str:
        length = self.node("Gather", self.node("Shape", IDS), self.whole(1), axis=0)
        return self.node("Slice", self.weight("positions", table), self.whole(0), length, self.whole(0))

    def mask(self) -> str:
        """(B, 1, 1, L): what is added to the scores."""
        wide = MASK
        for axis in (1, 2):
            if self.version == FUSED_OPSET:
                wide = self.node("Unsqueeze", wide, axes=[axis])
            else:
                wide = self.node("Unsqueeze", wide, self.whole(axis))
        real = self.node("Cast", wide, to=self.onnx.TensorProto.FLOAT)
        return self.node("Mul", self.node("Sub", self.number(1.0), real), self.number(MASK_BIAS))

    def post(self, x: str, block: Any, settings: ModelSettings, mask: str, name: str) -> str:
        mixed = self.attention(x, block.attention, mask, f"{name}.attention")
        x = self.norm(self.node("Add", mixed, x), block.attention_norm, f"{name}.attention_norm")
        fed = self.ffn(x, block.ffn, settings.ffn, f"{name}.ffn")
        return self.norm(self.node("Add", fed, x), block.ffn_norm, f"{name}.ffn_norm")

    def pre(self, x: str, block: Any, settings: ModelSettings, mask: str, name: str) -> str:
        normed = self.norm(x, block.attention_norm, f"{name}.attention_norm")
        x = self.node("Add", self.attention(normed, block.attention, mask, f"{name}.attention"), x)
        normed = self.norm(x, block.ffn_norm, f"{name}.ffn_norm")
        return self.node("Add", self.ffn(normed, block.ffn, settings.ffn, f"{name}.ffn"), x)

    def attention(self, x: str, module: Any, mask: str, name: str) -> str:
        """Sizes are the layer's own: heads may have been pruned."""
        size = module.shape.head_size
        inner = module.qkv.out_features // 3
        x = self.rounded(x, f"{name}.qkv")
        turned = {}
        for place, which in enumerate(("query", "key", "value")):
            flat = self.times(
                x, module.qkv, f"{name}.{which}", f"{name}.qkv", slice(place * inner, (place + 1) * inner)
            )
            split = self.node("Reshape", flat, self.whole(0, 0, inner // size, size))
            turned[which] = self.node("Transpose", split, perm=[0, 2, 3, 1] if which == "key" else [0, 2, 1, 3])
        scores = self.node("Div", self.node("MatMul", turned["query"], turned["key"]), self.number(math.sqrt(size)))
        shares = self.node("Softmax", self.node("Add", scores, mask), axis=3)
        mixed = self.node("Transpose", self.node("MatMul", shares, turned["value"]), perm=[0, 2, 1, 3])
        return self.linear(self.node("Reshape", mixed, self.whole(0, 0, inner)), module.out, f"{name}.out")

    def ffn(self, x: str, module: Any, made_of: Any, name: str) -> str:
        if isinstance(made_of, MLP):
            inside = self.activate(self.linear(x, module.up, f"{name}.up"), made_of.activation)
            return self.linear(inside, module.down, f"{name}.down")
        x = self.rounded(x, f"{name}.up")
        inner = module.down.in_features
        gate, value = (
            self.times(x, module.up, f"{name}.{half}", f"{name}.up", rows)
            for half, rows in (("gate", slice(inner)), ("value", slice(inner, None)))
        )
        product = self.node("Mul", self.activate(gate, made_of.activation), value)
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
        return self.times(self.rounded(x, name), module, name, name, slice(None))

    def rounded(self, x: str, layer: str) -> str:
        """The inputs of a layer, to 8 bits and back where it is to have them: engines take the pair away again."""
        if layer not in self.layers:
            return x
        found = self.layers[layer]
        x = self.node("Mul", x, self.weight(f"{layer}.smoothing", (1 / found.divisor).astype(np.float32)))
        step = self.weight(f"{layer}.step", np.array(found.step, np.float32))
        zero = self.weight(f"{layer}.zero", np.array(found.zero, np.uint8))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, step, zero), step, zero)

    def times(self, x: str, module: nn.Linear, name: str, layer: str, rows: slice) -> str:
        """x Wᵀ + b over some of the outputs. A bias of zeros stands where there is none: the fusions look for it."""
        if layer in self.layers:
            found = self.layers[layer]
            numbers = self.weight(f"{name}.weight", found.weights[rows].T)
            steps = self.weight(f"{name}.weight_scale", found.steps[rows].astype(np.float32))
            none = self.weight(f"{name}.weight_zero", np.zeros(len(found.steps[rows]), np.int8))
            weight = self.node("DequantizeLinear", numbers, steps, none, axis=1)
        else:
            weight = self.weight(f"{name}.weight", _array(module.weight)[rows].T)
        product = self.node("MatMul", x, weight)
        bias = np.zeros(module.out_features, np.float32) if module.bias is None else _array(module.bias)
        return self.node("Add", product, self.weight(f"{name}.bias", bias[rows]))

    def norm(self, x: str, module: nn.Module, name: str) -> str:
        """In its single steps: every version of every engine knows these as a norm."""
        if not isinstance(module, nn.LayerNorm):
            return x
        apart = self.node("Sub", x, self.node("ReduceMean", x, axes=[-1], keepdims=1))
        spread = self.node("ReduceMean", self.node("Pow", apart, self.number(2.0)), axes=[-1], keepdims=1)
        shifted = self.node("Sqrt", self.node("Add", spread, self.number(module.eps)))
        gain, bias = _array(module.weight), module.bias
        scaled = self.node("Mul", self.node("Div", apart, shifted), self.weight(f"{name}.weight", gain))
        given = np.zeros_like(gain) if bias is None else _array(bias)
        return self.node("Add", scaled, self.weight(f"{name}.bias", given))

    def finished(self, settings: ModelSettings) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        names = [IDS, MASK, *([SEGMENTS] if settings.type_vocab_size else [])]
        given = [helper.make_tensor_value_info(name, types.INT64, ["batch", "length"]) for name in names]
        out, weights = self.shaped(HIDDEN, settings.width), list(self.weights.values())
        whole = helper.make_graph(self.nodes, "encoder", given, [out], weights, value_info=self.known)
        opsets = [helper.make_opsetid("", self.version)]
        made = helper.make_model(whole, opset_imports=opsets, producer_name="encodery", ir_version=8)
        self.onnx.checker.check_model(made)
        return made


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().to("cpu", torch.float32).numpy()
    return found
