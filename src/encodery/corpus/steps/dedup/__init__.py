"""Deduplication methods.

They run after the filters and before the held-out split, so that no detected duplicate can be in both splits.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True)
class Pass:
    """One run of the executor.

    Attributes:
        steps: the datatrove steps.
        documents: whether the steps run over the cleaned documents; otherwise they have no input.
        tasks: the number of tasks; None for the number of tasks of the documents.
    """

    name: str
    steps: list[PipelineStep] = field(default_factory=list)
    documents: bool = True
    tasks: int | None = None


class Dedup(Part):
    """Find duplicates in passes over the documents, then drop all but one of each group."""

    @abc.abstractmethod
    def passes(self, folder: str) -> list[Pass]:
        """Return the passes that must run before the step of `build`; they write files below `folder`.

        The documents of a pass are those that all earlier methods keep, in the same tasks and order.
        """

    @abc.abstractmethod
    def build(self, folder: str, exclusion_writer: DiskWriter | None = None) -> PipelineStep:
        """Return the step that drops the duplicates; `exclusion_writer` receives them."""
