"""The datatrove step around a rewrite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

if TYPE_CHECKING:
    from encodery.corpus.steps.rewrite import Rewrite


class RewriteStep(PipelineStep):  # type: ignore[misc]
    """Applies a rewrite; the pieces of one document carry `piece` and `pieces` in their metadata."""

    type = "rewrite"

    def __init__(self, part: Rewrite, name: str) -> None:
        self.name = name
        super().__init__()
        self.part = part

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            self.stat_update("total")
            with self.track_time():
                texts = self.part.apply(document.text)
            if len(texts) == 1:
                self.stat_update("changed", value=int(texts[0] != document.text))
                document.text = texts[0]
                yield document
                continue
            self.stat_update("cut")
            for number, text in enumerate(texts):
                self.stat_update("pieces")
                metadata = document.metadata | {"piece": number, "pieces": len(texts)}
                yield Document(text=text, id=f"{document.id}#{number}", metadata=metadata)
