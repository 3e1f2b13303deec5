"""An ONNX graph that ONNX Runtime serves without PyTorch, in the classic shape that its fusions look for.

`weights = "int8"`: 8-bit weights with a scale for each output channel and activations at fixed scales, measured on
texts of the user's own; the ranges of the two are brought near each other first (SmoothQuant, arXiv:2211.10438). The
word table stays float32. Refused where vectors drift from the model's beyond `least_mean` or `least`. Not offered: one
scale for a whole matrix (vectors would be far off), and scales of activations found anew for each batch (a vector would
depend on its company). Differs from `openvino`: runs wherever ONNX Runtime does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.artifact import Artifact
from encodery.base.errors import SettingsError
from encodery.base.extras import require
from encodery.export import Exported, Exporter
from encodery.export._engine import Plan, Weights, quiet
from encodery.model.load import Loaded
from encodery.runtimes._onnx_graph import graph
from encodery.runtimes.onnx import Onnx as Run

SMALLEST = 1e-5  # Inputs that are never larger than this share of the largest are scaled as if they were.


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """`texts`: a file of texts, for 8-bit weights. `smoothing`: how much of the activations' spread goes over into the
    weights, 0 … 1. `narrow`: 7 bits for weights, for processors without VNNI, whose sums of 8-bit products are cut.
    `least_mean`, `least`: cosines to the model's vectors that 8-bit weights must reach."""

    weights: Weights = "float32"
    texts: str | None = None
    smoothing: float = 0.6
    narrow: bool = False
    least_mean: float = 0.99
    least: float = 0.97

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise SettingsError(f"smoothing = {self.smoothing}: must lie in 0 … 1.")

    def write(self, loaded: Loaded, folder: Path, overwrite: bool = False) -> Exported:
        plan = Plan.of(loaded, self.weights, self.texts, "onnx")
        require("onnxruntime", "onnx")
        with plan.writing(self, folder, overwrite) as draft:
            file = draft.path / Run.FILE
            if self.weights == "float32":
                file.write_bytes(graph(plan.embedder.model).SerializeToString())
            else:
                self._quantise(plan, file)
            plan.judge(draft, Run().engine(file, plan.limits), self.least_mean, self.least)
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout="onnx", figures=figures)

    def _quantise(self, plan: Plan, target: Path) -> None:
        with tempfile.TemporaryDirectory() as room, quiet():
            tools = require("onnxruntime.quantization", "onnx")
            source = Path(room) / Run.FILE
            source.write_bytes(graph(plan.embedder.model, _scales(plan, self.smoothing)).SerializeToString())
            tools.quantize_static(
                str(source),
                str(target),
                _Reader(plan.inputs()),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=self.narrow,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
            )


class _Reader:
    """Batches one after another, as the quantiser asks for them."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self.batches: Iterator[dict[str, np.ndarray]] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """None at the end."""
        return next(self.batches, None)


@torch.inference_mode()
def _scales(plan: Plan, smoothing: float) -> dict[str, np.ndarray]:
    """For each linear layer what its inputs are divided by: |x|^s / |w|^(1 - s), both at their largest."""
    encoder = plan.embedder.model.encoder
    layers = {name: part for name, part in encoder.named_modules() if isinstance(part, nn.Linear)}
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            now = given[0].abs().amax(0)
            largest[name] = torch.maximum(largest[name], now) if name in largest else now

        return see

    watching = [part.register_forward_pre_hook(watch(name)) for name, part in layers.items()]
    for batch in plan.batches():
        encoder(batch)
    for hook in watching:
        hook.remove()
    found = {}
    for name, most in largest.items():
        heaviest = layers[name].weight.abs().amax(0)
        scale = most.clamp_min(SMALLEST * float(most.max()) + 1e-12) ** smoothing
        scale = scale / heaviest.clamp_min(SMALLEST * float(heaviest.max()) + 1e-12) ** (1 - smoothing)
        found[name] = scale.numpy()
    return found
