"""An OpenVINO graph, served without PyTorch by the fastest of the other engines on x86 CPUs.

`weights = "int8"`: weights and inputs of the linear layers in 8 bits, calibrated on texts of the user (`_calibrate.py`,
after arXiv:2211.10438); 8-bit queries, keys and values were less exact and no faster. The export is refused if
embeddings of other texts have cosines to the model's below `min_mean_cosine` or `min_cosine`. Differs from `onnx`: runs
on fewer machines, and faster.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.export import Exporter, ExportResult
from encodery.export._calibrate import calibrate
from encodery.export._engine import MIN_COSINE, MIN_MEAN_COSINE, GraphExport, Weights
from encodery.model.load import LoadedModel
from encodery.runtimes.kind.openvino import OpenvinoRuntime
from encodery.runtimes.onnx_graph import build_graph
from encodery.runtimes.openvino_import import import_without_telemetry


@dataclass(frozen=True, kw_only=True)
class OpenvinoExporter(Exporter):
    """Use it to serve dense embeddings without PyTorch on x86 CPUs.

    `weights`: float32 or int8; `texts`: a file of texts, which int8 needs. `min_mean_cosine` and `min_cosine` are the
    cosines to the model's embeddings that 8-bit weights must reach.

        encodery model export MODEL --format openvino --out FOLDER
    """

    weights: Weights = "float32"
    texts: str | None = None
    min_mean_cosine: float = MIN_MEAN_COSINE
    min_cosine: float = MIN_COSINE

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        export = GraphExport.of(loaded, self.weights, self.texts, "openvino")
        openvino, model = import_without_telemetry(), export.encoder.model
        with export.writing(self, folder, overwrite) as draft:
            file = draft.path / OpenvinoRuntime.FILE
            layers = calibrate(model.encoder, export.batches()) if self.weights == "int8" else None
            with tempfile.TemporaryDirectory() as temporary:
                source = Path(temporary) / "model.onnx"
                source.write_bytes(build_graph(model, layers).SerializeToString())
                openvino.save_model(openvino.Core().read_model(source), file, compress_to_fp16=False)
            engine = OpenvinoRuntime().build_engine(file, export.limits)
            export.verify(draft, engine, self.min_mean_cosine, self.min_cosine)
            metrics = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format="openvino", metrics=metrics)
