"""Keep documents in the given languages, recognised by their script and their most frequent words.

No model is downloaded. Some languages are identified by their script (Greek, Thai, …); languages that share the Latin
or Cyrillic script are distinguished by the fraction of their function words, which needs about thirty words of running
text. This is not a default filter, because documents in languages unknown to it would be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.base.errors import SettingsError, nearest
from encodery.corpus.function_words import FUNCTION_WORDS, SCRIPTS
from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Language(Filter):
    """Language filter. Use it when the sources mix languages and the model is for some of them.

    Attributes:
        languages: the codes of the languages to keep.
        min_fraction: the fraction of words that must be function words of a language, or of letters in its script.
    """

    languages: tuple[str, ...] = ("en",)
    min_fraction: float = 0.15

    def __post_init__(self) -> None:
        known = sorted([*FUNCTION_WORDS, *SCRIPTS])
        for code in self.languages:
            if code not in known:
                raise SettingsError(
                    f"languages: there is no '{code}'.{nearest(code, known)} Languages: {', '.join(known)}."
                )

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._language import LanguageStep

        return LanguageStep(self.languages, self.min_fraction, exclusion_writer)
