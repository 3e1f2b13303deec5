"""Filters: which documents are kept, and the reason for those that are not.

Rules that look for the words of one language are off by default, because they would silently remove every other
language; scripts written without spaces are counted by character (see `words.py`).
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from encodery.base.parts import Part

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


class Filter(Part):
    """Keeps or drops whole documents (C4 also drops lines), giving a reason."""

    @abc.abstractmethod
    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        """The datatrove filter; what it removes goes to `dropped` with `filter_reason` in its metadata."""
