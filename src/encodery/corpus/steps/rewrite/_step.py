"""The datatrove step that runs a rewrite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep


class RewriteStep(PipelineStep):  # type: ignore[misc]
    """Apply a rewrite; pieces of a document have their number and their count in the metadata (`piece`, `pieces`)."""

    type = "rewrite"

    def __init__(self, apply: Callable[[str], list[str]], name: str) -> None:
        self.name = name
        super().__init__()
        self.apply = apply

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            self.stat_update("total")
            with self.track_time():
                texts = self.apply(document.text)
            if len(texts) == 1:
                self.stat_update("changed", value=int(texts[0] != document.text))
                document.text = texts[0]
                yield document
                continue
            self.stat_update("split")
            for number, text in enumerate(texts):
                self.stat_update("pieces")
                metadata = document.metadata | {"piece": number, "pieces": len(texts)}
                yield Document(text=text, id=f"{document.id}#{number}", metadata=metadata)
