"""Drop documents that are too short or too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError
from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Length(Filter):
    """`min_words`, `max_words`: words, or characters in scripts without spaces; None sets no upper limit."""

    min_words: int = 10
    max_words: int | None = None

    def __post_init__(self) -> None:
        if self.min_words < 0 or (self.max_words is not None and self.max_words < self.min_words):
            raise SettingsError(
                f"min_words = {self.min_words}, max_words = {self.max_words}: 0 <= min_words <= max_words is needed."
            )

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._length import LengthStep

        return LengthStep(self.min_words, self.max_words, exclusion_writer)
