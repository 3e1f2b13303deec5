"""Words of a passage that match a query's: the same as when each is looked at by itself, and far fewer looks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery.search.engine import _analyser
from encodery.search.engine._analyser import WORD, Analyser
from encodery.search.excerpt import excerpt

edge = pytest.importorskip("qdrant_edge", reason="the extra `search` is not installed")

TEXTS = [
    "Running, runs; the runner ran. run_time run-time re-run RUN2 run",
    "a cafe\u0301 and a café, Ünïcode\u00a0unicode\tnaïve\nnaive",
    "violin violin's violins' _violin violin_ (violin) violin",
    "北京是中国的首都。我爱北京天安门 北京",
    "",
    " \n ",
    "xrun runx run",
]
QUERIES = ["run", "cafe unicode", "the violins, naive", "北京", "absent", "", "RUN2 2 _violin"]


def by_itself(analyser: Analyser, query: str, text: str) -> list[tuple[int, int]]:
    """Every word of the text, looked at where it stands."""
    query_terms = set(analyser.term_ids(query))
    return [match.span() for match in WORD.finditer(text) if query_terms & set(analyser.term_ids(match[0]))]


@pytest.mark.parametrize("language", ["english", "none"])
def test_marks_are_those_of_each_word_by_itself(language: str) -> None:
    analyser = Analyser(edge, language)
    for texts in (TEXTS, TEXTS[::-1]):
        for query in QUERIES:
            for text in texts:
                assert analyser.matches(query, text) == by_itself(analyser, query, text), (query, text)


def test_a_piece_is_analysed_once_for_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    analysed: list[str] = []
    plain: Callable[[Analyser, str], tuple[int, ...]] = Analyser.term_ids

    def noted(self: Analyser, text: str) -> tuple[int, ...]:
        analysed.append(text)
        return plain(self, text)

    monkeypatch.setattr(Analyser, "term_ids", noted)
    analyser = Analyser(edge, "english")
    for query in ("storm", "violin", "storm"):
        assert analyser.matches(query, "a storm, a violin and a storm") != []
        assert analyser.matches(query, "a new violin, no storm,") != []
    looked = ["a", "storm", "violin", "and", "storm,", "new", "violin,", "no"]
    assert sorted(analysed) == sorted(["storm", "violin", *(piece.strip(",") for piece in looked)])


def test_repeated_words_are_searched_once_for_each_number_of_times() -> None:
    analyser = Analyser(edge, "none")
    assert analyser.repeated_terms("git add git push git") == [("git", 2)]
    assert analyser.repeated_terms("a b c") == []
    assert analyser.repeated_terms("git " * 50_000) == [("git", 49_999)]
    assert analyser.repeated_terms("x y z x y z x y x") == [("x y z", 1), ("x y", 1), ("x", 1)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_analyser, "KNOWN_PIECES", 20)
    analyser = Analyser(edge, "english")
    for number in range(30):
        text = f"storm{number} over word{number} and violin, violin"
        assert analyser.matches("violins", text) == by_itself(analyser, "violins", text)
        assert len(analyser._marker._known) <= 26


def test_an_excerpt_is_a_single_line_with_most_matching_words() -> None:
    text = "far violin " + "x " * 100 + "violin\u2028and\u00a0violin\tand\nviolin " + "y " * 100
    spans = [match.span() for match in WORD.finditer(text) if match[0] == "violin"]
    short, moved = excerpt(text, spans, 80)
    assert [short[a:b] for a, b in moved] == ["violin"] * 3
    assert "violin and violin and violin" in short
