"""Rewrites: changes to the text of a document before it is filtered."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep


class Rewrite(Part):
    """Rewrite one text into one text, or into several if the document is split."""

    @abc.abstractmethod
    def apply(self, text: str) -> list[str]:
        """Return the rewritten text, or its pieces in order."""

    def build(self, name: str) -> PipelineStep:
        """Return the datatrove step that rewrites every document; `name` is its name in the report."""
        from encodery.corpus.steps.rewrite._step import RewriteStep

        return RewriteStep(self.apply, name)
