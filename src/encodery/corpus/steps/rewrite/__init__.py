"""Rewrites: what is done to a document's text before it is judged."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep


class Rewrite(Part):
    """One text in, one text out, or several where a document is cut."""

    @abc.abstractmethod
    def apply(self, text: str) -> list[str]:
        """The text rewritten; more than one where it is cut into pieces, in order."""

    def build(self, name: str) -> PipelineStep:
        """The datatrove step that does this to every document; `name` is how the report calls it."""
        from encodery.corpus.steps.rewrite._step import RewriteStep

        return RewriteStep(self.apply, name)
