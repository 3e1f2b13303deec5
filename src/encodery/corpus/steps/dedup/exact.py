"""Exact deduplication: drop documents whose text is identical except for case and whitespace.

Uses datatrove's exact deduplication by 64-bit hash. The hashes are sorted on disk and merged, in bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.corpus.steps.dedup import Dedup, Pass

if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Exact(Dedup):
    """Exact deduplication. `normalise`: whether case and whitespace are ignored."""

    normalise: bool = True

    def passes(self, folder: str) -> list[Pass]:
        from datatrove.pipeline.dedup import ExactDedupSignature, ExactFindDedups

        from encodery.corpus.steps.dedup._exact import config

        sign = ExactDedupSignature(f"{folder}/signatures", config(self.normalise))
        find = ExactFindDedups(
            f"{folder}/signatures", f"{folder}/duplicates", config(self.normalise), lines_to_buffer=1000
        )
        return [
            Pass("exact signatures", [sign]),
            Pass("exact duplicates", [find], documents=False, tasks=1),
        ]

    def build(self, folder: str, exclusion_writer: DiskWriter | None = None) -> PipelineStep:
        from encodery.corpus.steps.dedup._exact import ExactStep, config

        return ExactStep(f"{folder}/duplicates", config(self.normalise), exclusion_writer)
