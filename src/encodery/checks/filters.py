"""Checks of filters of a corpus build, on prose, on noise and on unusual texts."""

from __future__ import annotations

from encodery.base.settings import decode, encode
from encodery.corpus.steps.filter import Filter

PROSE = (
    "The library keeps a list of open files and closes each of them when the program ends.\n"
    "Callers that want a file to stay open must say so, because a file that is forgotten is a file that leaks.\n\n"
    "Each entry of that list holds the name of the file, the mode in which it was opened and the number of readers.\n"
    "A second list holds those files that could not be closed, along with the reason that the system gave.\n"
    "Both lists are written to the log at the end, so that nothing is lost without a word about it."
)
NOISE, FRAGMENT = "# 1 2 # 3\n" * 40, "x"
UNUSUAL = ("", " \n ", "!?", "x", "\ud83d", "\u0301", "字")


def decide(part: Filter, text: str) -> tuple[bool, str]:
    """Return whether the filter keeps a text, and otherwise the reason. Raises `AssertionError` for another answer."""
    from datatrove.data import Document

    answer = part.build().filter(Document(text=text, id="0"))
    if answer is True:
        return True, ""
    assert isinstance(answer, tuple), f"the filter answers {answer!r}, which is neither True nor (False, reason)"
    keep, reason = answer
    assert keep is False, f"the filter answers {answer!r}, which is neither True nor (False, reason)"
    return False, reason


def check_settings_round_trip(part: Filter) -> None:
    """The part is what its settings decode to."""
    assert decode(Filter, encode(part)) == part


def check_builds_a_filter(part: Filter) -> None:
    """`build` returns a filter of datatrove."""
    from datatrove.pipeline.filters.base_filter import BaseFilter

    assert isinstance(part.build(), BaseFilter)


def check_prose_is_kept(part: Filter) -> None:
    """Clean English prose passes the filter with its default settings."""
    keep, reason = decide(part, PROSE)
    assert keep, f"prose is dropped: {reason}"


def check_drops_have_a_reason(part: Filter) -> None:
    """A page of numbers and signs, or a text of one letter, is dropped, with a reason."""
    drops = [reason for keep, reason in (decide(part, text) for text in (NOISE, FRAGMENT)) if not keep]
    assert drops, "the filter keeps both"
    assert all(drops), "a document is dropped without a reason"


def check_unusual_texts(part: Filter) -> None:
    """Texts that are empty or of single characters, half a surrogate pair included, are kept or dropped."""
    for text in UNUSUAL:
        decide(part, text)
