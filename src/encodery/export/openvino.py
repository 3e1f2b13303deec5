"""An OpenVINO graph, served without PyTorch by the fastest engine of others on x86 CPUs.

`weights = "int8"`: weights and inputs of the linear layers in 8 bits, found on texts of the user's own
(`_calibrate.py`, after arXiv:2211.10438); queries, keys and values in 8 bits too were less exact and no faster. Refused
where vectors of other texts drift from the model's beyond `least_mean` or `least`. Differs from `onnx`: runs on fewer
machines, faster.
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
from encodery.runtimes.kind.openvino import OpenvinoRuntime as Run
from encodery.runtimes.onnx_graph import build_graph
from encodery.runtimes.openvino_import import import_without_telemetry


@dataclass(frozen=True, kw_only=True)
class OpenvinoExporter(Exporter):
    """`texts`: a file of texts, for 8-bit weights. `least_mean`, `least`: cosines to the model's vectors that those
    must reach."""

    weights: Weights = "float32"
    texts: str | None = None
    min_mean_cosine: float = MIN_MEAN_COSINE
    min_cosine: float = MIN_COSINE

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        plan = GraphExport.of(loaded, self.weights, self.texts, "openvino")
        engine, model = import_without_telemetry(), plan.embedder.model
        with plan.writing(self, folder, overwrite) as draft:
            layers = calibrate(model.encoder, plan.batches()) if self.weights == "int8" else None
            with tempfile.TemporaryDirectory() as room:
                source = Path(room) / "model.onnx"
                source.write_bytes(build_graph(model, layers).SerializeToString())
                engine.save_model(engine.Core().read_model(source), draft.path / Run.FILE, compress_to_fp16=False)
            plan.judge(
                draft, Run().build_engine(draft.path / Run.FILE, plan.limits), self.min_mean_cosine, self.min_cosine
            )
            figures = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format="openvino", metrics=figures)
