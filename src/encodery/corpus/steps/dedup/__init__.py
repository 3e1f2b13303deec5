"""Ways to find duplicates. They run after the filters and before held-out text is chosen, so that no duplicate
that is found can lie on both sides."""

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
    """One run of the executor. `steps` come after the documents if `documents`, else they stand alone.
    `tasks`: how many tasks; `None` for one a task of documents."""

    name: str
    steps: list[PipelineStep] = field(default_factory=list)
    documents: bool = True
    tasks: int | None = None


class Dedup(Part):
    """Finds duplicates in passes over the documents, then drops all but one of each group."""

    @abc.abstractmethod
    def passes(self, folder: str) -> list[Pass]:
        """What must run before `build`'s step can tell; files are kept below `folder`.

        The documents of a pass are those that all earlier parts leave, in the same tasks and order.
        """

    @abc.abstractmethod
    def build(self, folder: str, exclusion_writer: DiskWriter | None = None) -> PipelineStep:
        """The step that drops the duplicates; they go to `dropped`."""
