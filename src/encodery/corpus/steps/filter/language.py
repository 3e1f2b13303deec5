"""Keeps documents of wanted languages or scripts, recognised by their letters and most frequent words.

No model is downloaded. A script names its languages (Greek, Thai, …); languages that share the Latin or Cyrillic
script are told apart by the share of their function words, which needs some thirty words of running text. Not among
the default filters: a language that is not listed here would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError, nearest
from encodery.corpus.steps.filter import Filter
from encodery.corpus.steps.filter._function_words import FUNCTION_WORDS, SCRIPTS

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Language(Filter):
    """`keep`: codes of the languages kept. `min_share`: share of words that must be function words of one of them,
    or share of letters that must be of its script."""

    languages: tuple[str, ...] = ("en",)
    min_fraction: float = 0.15

    def __post_init__(self) -> None:
        known = sorted([*FUNCTION_WORDS, *SCRIPTS])
        for code in self.languages:
            if code not in known:
                raise SettingsError(f"keep: no language '{code}'.{nearest(code, known)} Known: {', '.join(known)}.")

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._language import LanguageStep

        return LanguageStep(self.languages, self.min_fraction, exclusion_writer)
