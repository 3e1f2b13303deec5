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
from encodery.export import Exported, Exporter
from encodery.export._calibrate import calibrate
from encodery.export._engine import LEAST, LEAST_MEAN, Plan, Weights
from encodery.model.load import Loaded
from encodery.runtimes._onnx_graph import graph
from encodery.runtimes._reports import without_reports
from encodery.runtimes.openvino import Openvino as Run


@dataclass(frozen=True, kw_only=True)
class Openvino(Exporter):
    """`texts`: a file of texts, for 8-bit weights. `least_mean`, `least`: cosines to the model's vectors that those
    must reach."""

    weights: Weights = "float32"
    texts: str | None = None
    least_mean: float = LEAST_MEAN
    least: float = LEAST

    def write(self, loaded: Loaded, folder: Path, overwrite: bool = False) -> Exported:
        plan = Plan.of(loaded, self.weights, self.texts, "openvino")
        engine, model = without_reports(), plan.embedder.model
        with plan.writing(self, folder, overwrite) as draft:
            layers = calibrate(model.encoder, plan.batches()) if self.weights == "int8" else None
            with tempfile.TemporaryDirectory() as room:
                source = Path(room) / "model.onnx"
                source.write_bytes(graph(model, layers).SerializeToString())
                engine.save_model(engine.Core().read_model(source), draft.path / Run.FILE, compress_to_fp16=False)
            plan.judge(draft, Run().engine(draft.path / Run.FILE, plan.limits), self.least_mean, self.least)
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout="openvino", figures=figures)
