"""A Hugging Face folder: config.json, model.safetensors, tokenizer, model card; read by stock classes, no remote code.

A model that was imported and not changed is written as it came, bit for bit. Any other goes through the first layout
of `model/formats/` that can hold it. What was written is read back and must compute what the model computes; where
`transformers` is installed, it is asked as well. The head of a fine-tuned model goes along in the stock class that
computes it; one that none computes is refused, not left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import Artifact, create_artifact
from encodery.base.settings import encode
from encodery.export import Exporter, ExportResult
from encodery.export._folder import FolderExport, Precision
from encodery.export._heads import came_so, tuned_of, unopened
from encodery.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True)
class HFExporter(Exporter):
    """`layout`: a door of `model/formats/` (None: the first that fits). `dtype`: of the weights (None: that of the imported
    file, else float32). `head`: false writes the encoder alone, whatever head it has. `peer`: ask transformers, if
    installed. `title` and `license` are for the card."""

    checkpoint_format: str | None = None
    dtype: Precision | None = None
    head: bool = True
    verify_with_peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        tuned = tuned_of(loaded) if self.head else None
        fresh = tuned is not None and not came_so(loaded, tuned)
        plan = FolderExport(loaded, self.checkpoint_format, self.dtype, bare=fresh or not self.head)
        if self.head and plan.origin is None:
            tuned = tuned or unopened(loaded)
            if tuned is not None:
                plan.put_on(tuned)
        parents = {"model": loaded.artifact} if loaded.artifact is not None else None
        settings = {"export": encode(self), "format": plan.layout, "dtype": plan.dtype}
        with create_artifact(folder, "export", settings, parents, overwrite=overwrite) as draft:
            plan.write(draft, self.verify_with_peer)
            plan.write_card(draft, folder, self.title, self.license)
            figures = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format=plan.layout, metrics=figures)
