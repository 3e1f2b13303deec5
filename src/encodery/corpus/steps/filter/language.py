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

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter

FUNCTION_WORDS = {
    "cs": "a v na je se že s z do to o i za ale jako jsou by pro po",
    "da": "og i at det er en til på som med for af den de ikke der har et",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als",
    "en": "the of and to in a is that for it as was with be on not by are this or",
    "es": "de la que el en y a los se del las un por con no una su para es al",
    "fi": "ja on ei että se oli hän joka mutta ovat tai kun niin myös ole sen",
    "fr": "de la le et les des en un du une que est dans qui par pour au sur pas ne",
    "hu": "a az és hogy nem is egy ez de meg van volt csak azt mint el",
    "id": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke ada",
    "it": "di e il la che in un a per è una del le con non i si da al sono",
    "nl": "de van het een en in is dat op te zijn met voor niet die aan er om ook als",
    "no": "og i det er på som en til at av for med ikke den har de et om",
    "pl": "i w na z się nie do że to jest o jak po od ale za przez co",
    "pt": "de a o que e do da em um para com não uma os no se na por mais as",
    "ro": "și de în a la cu o pe că din nu un mai se este care pentru sau",
    "ru": "и в не на я что с он как это по но из у за от то для же к",
    "sv": "och i att det som en på är av för med den till inte har de om ett",
    "tr": "ve bir bu da de için ile çok olarak daha gibi ne o ama en olan",
    "uk": "і в не на що я з у до як це та за але його від для є він",
    "vi": "và của là có không được cho các một trong người với này những đã",
}
SCRIPTS = {
    "am": "Ethiopic",
    "ar": "Arabic",
    "bn": "Bengali",
    "el": "Greek",
    "he": "Hebrew",
    "hi": "Devanagari",
    "hy": "Armenian",
    "ja": "Hiragana",
    "ka": "Georgian",
    "km": "Khmer",
    "ko": "Hangul",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "zh": "Han",
}


@dataclass(frozen=True, kw_only=True)
class Language(Filter):
    """`keep`: codes of the languages kept. `min_share`: share of words that must be function words of one of them,
    or share of letters that must be of its script."""

    keep: tuple[str, ...] = ("en",)
    min_share: float = 0.15

    def __post_init__(self) -> None:
        known = sorted([*FUNCTION_WORDS, *SCRIPTS])
        for code in self.keep:
            if code not in known:
                raise SettingsError(f"keep: no language '{code}'.{nearest(code, known)} Known: {', '.join(known)}.")

    def build(self, dropped: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._language import LanguageStep

        return LanguageStep(self, dropped)
