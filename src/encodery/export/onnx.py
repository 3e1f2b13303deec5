"""An ONNX graph that ONNX Runtime serves without PyTorch, in the classic shape that its fusions look for.

`weights = "int8"`: 8-bit weights with a scale for each output channel and activations at fixed scales, found on texts
of the user's own (`_calibrate.py`, after arXiv:2211.10438). The word table stays float32. Refused where vectors of
other texts drift from the model's beyond `least_mean` or `least`. Not offered: one scale for a whole matrix (vectors
would be far off), and scales of activations found anew for each batch (a vector would depend on its company). Differs
from `openvino`: runs wherever ONNX Runtime does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.base.extras import require
from encodery.export import Exporter, ExportResult
from encodery.export._calibrate import calibrate
from encodery.export._engine import MIN_COSINE, MIN_MEAN_COSINE, GraphExport, Weights
from encodery.model.load import LoadedModel
from encodery.runtimes.kind.onnx import OnnxRuntime as Run
from encodery.runtimes.onnx_graph import build_graph


@dataclass(frozen=True, kw_only=True)
class OnnxExporter(Exporter):
    """`texts`: a file of texts, for 8-bit weights. `narrow`: 7 bits for weights, for processors without VNNI, whose
    sums of 8-bit products are cut. `least_mean`, `least`: cosines to the model's vectors that 8-bit weights must
    reach."""

    weights: Weights = "float32"
    texts: str | None = None
    seven_bit_weights: bool = False
    min_mean_cosine: float = MIN_MEAN_COSINE
    min_cosine: float = MIN_COSINE

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        plan = GraphExport.of(loaded, self.weights, self.texts, "onnx")
        require("onnxruntime", "onnx")
        with plan.writing(self, folder, overwrite) as draft:
            file, model = draft.path / Run.FILE, plan.embedder.model
            small = self.weights == "int8"
            layers = calibrate(model.encoder, plan.batches(), 63 if self.seven_bit_weights else 127) if small else None
            file.write_bytes(build_graph(model, layers).SerializeToString())
            plan.judge(draft, Run().build_engine(file, plan.limits), self.min_mean_cosine, self.min_cosine)
            figures = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format="onnx", metrics=figures)
