"""An OpenVINO graph, served without PyTorch by the fastest engine of others on x86 CPUs.

`weights = "int8"`: weights and activations quantised after training by NNCF, which measures activations on texts of the
user's own, smooths their ranges (arXiv:2211.10438) and corrects biases. Refused where vectors drift from the model's
beyond `least_mean` or `least`. Differs from `onnx`: runs on fewer machines, faster.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import Artifact
from encodery.export import Exported, Exporter
from encodery.export._engine import Plan, Weights, quiet
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
    least_mean: float = 0.99
    least: float = 0.97

    def write(self, loaded: Loaded, folder: Path, overwrite: bool = False) -> Exported:
        plan = Plan.of(loaded, self.weights, self.texts, "openvino")
        engine = without_reports("openvino")
        with plan.writing(self, folder, overwrite) as draft:
            with tempfile.TemporaryDirectory() as room:
                source = Path(room) / "model.onnx"
                source.write_bytes(graph(plan.embedder.model).SerializeToString())
                made = engine.Core().read_model(source)
                made = _quantised(made, plan) if self.weights == "int8" else made
                engine.save_model(made, draft.path / Run.FILE, compress_to_fp16=False)
            plan.judge(draft, Run().engine(draft.path / Run.FILE, plan.limits), self.least_mean, self.least)
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout="openvino", figures=figures)


def _quantised(made: Any, plan: Plan) -> Any:
    with quiet():
        nncf = without_reports("nncf")
        given = plan.inputs()
        return nncf.quantize(made, nncf.Dataset(given), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(given))
