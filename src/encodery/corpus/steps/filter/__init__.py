"""Filters: keep or drop documents, with a reason for each that is dropped.

Rules that look for the words of one language are off by default, because they would silently remove every other
language. In scripts written without spaces each character counts as a word (see `words.py`).
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


class Filter(Part):
    """Keep or drop whole documents, with a reason (C4 also drops lines)."""

    @abc.abstractmethod
    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        """Return the datatrove filter.

        `exclusion_writer` receives the dropped documents, with `filter_reason` in their metadata.
        """
