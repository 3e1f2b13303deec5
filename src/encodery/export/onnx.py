"""An ONNX graph, served by ONNX Runtime without PyTorch; it has the classic form that its optimiser fuses.

`weights = "int8"`: 8-bit weights with a scale per output channel, and activations with fixed scales, measured on
texts of the user (`_calibrate.py`, after arXiv:2211.10438). Token embeddings stay in float32. The export is refused if
embeddings of other texts have cosines to the model's below `min_mean_cosine` or `min_cosine`. Not offered: one scale
for a whole matrix (embeddings would differ too much), and scales of activations that are computed for each batch (an
embedding would depend on the other texts of the batch). Differs from `openvino`: runs wherever ONNX Runtime does.
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
from encodery.runtimes.kind.onnx import OnnxRuntime
from encodery.runtimes.onnx_graph import build_graph


@dataclass(frozen=True, kw_only=True)
class OnnxExporter(Exporter):
    """Use it to serve dense embeddings without PyTorch on any machine.

    `weights`: float32 or int8; `texts`: a file of texts, which int8 needs. `seven_bit_weights` is for processors
    without VNNI, whose sums of 8-bit products saturate. `min_mean_cosine` and `min_cosine` are the cosines to the
    model's embeddings that 8-bit weights must reach.

        encodery model export MODEL --format onnx --out FOLDER weights=int8 texts=sample.txt
    """

    weights: Weights = "float32"
    texts: str | None = None
    seven_bit_weights: bool = False
    min_mean_cosine: float = MIN_MEAN_COSINE
    min_cosine: float = MIN_COSINE

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        export = GraphExport.of(loaded, self.weights, self.texts, "onnx")
        require("onnxruntime", "onnx")
        with export.writing(self, folder, overwrite) as draft:
            file, model = draft.path / OnnxRuntime.FILE, export.encoder.model
            max_weight = 63 if self.seven_bit_weights else 127
            layers = calibrate(model.encoder, export.batches(), max_weight) if self.weights == "int8" else None
            file.write_bytes(build_graph(model, layers).SerializeToString())
            engine = OnnxRuntime().build_engine(file, export.limits)
            export.verify(draft, engine, self.min_mean_cosine, self.min_cosine)
            metrics = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format="onnx", metrics=metrics)
