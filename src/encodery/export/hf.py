"""A Hugging Face folder: config.json, weights, tokenizer, model card; read by stock classes without remote code.

A model that was imported and not changed is written as it was, bit for bit. Any other is written in the first format
of `model/formats/` that can express it. The folder is read back and must compute what the model computes; if
`transformers` is installed, so must its stock class. The head of a fine-tuned model is written in the stock class that
computes it, or the export is refused; it is never left out silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import Artifact, create_artifact
from encodery.base.settings import encode
from encodery.export import Exporter, ExportResult
from encodery.export._card import CardTexts
from encodery.export._folder import FolderExport, Precision
from encodery.export._heads import is_unchanged, trained_head, unused_head
from encodery.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True)
class HFExporter(Exporter):
    """Use it to run a model in transformers, or to publish it on the hub.

    `checkpoint_format`: a format of `model/formats/`, or a dotted path to one of your own (null: the first that can
    express the model). `dtype`: of the
    weights (null: that of the imported file, or float32). `head` = false writes the encoder alone, whatever head the
    model has. `verify_with_peer`: whether outputs are compared with those of transformers, if it is installed. `title`
    and `license` are for the model card.

        encodery model export MODEL --format hf --out FOLDER dtype=float16
    """

    checkpoint_format: str | None = None
    dtype: Precision | None = None
    head: bool = True
    verify_with_peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        head = trained_head(loaded) if self.head else None
        new_head = head is not None and not is_unchanged(loaded, head)
        export = FolderExport(loaded, self.checkpoint_format, self.dtype, bare=new_head or not self.head)
        if self.head and export.origin is None:
            head = head or unused_head(loaded)
            if head is not None:
                export.add_head(head)
        parents = {"model": loaded.artifact} if loaded.artifact is not None else None
        settings = {"export": encode(self), "format": export.format_name, "dtype": export.dtype}
        with create_artifact(folder, "export", settings, parents, overwrite=overwrite) as draft:
            export.write(draft, self.verify_with_peer)
            export.write_card(draft, folder, CardTexts(title=self.title, licence=self.license))
            metrics = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format=export.format_name, metrics=metrics)
