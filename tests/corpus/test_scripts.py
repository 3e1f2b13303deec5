"""Scripts without spaces are the same for the corpus and for search; the language of texts is recognised."""

from __future__ import annotations

import sys
import unicodedata

from encodery.corpus.languages import most_frequent_language
from encodery.corpus.scripts import CHARACTER, set_apart, word_spans
from encodery.corpus.words import WITHOUT_SPACES, words


def test_the_letters_of_scripts_without_spaces_are_those_of_the_corpus() -> None:
    differing = [
        f"{point:04x}"
        for point in range(sys.maxunicode)
        if unicodedata.category(chr(point))[0] in "LM"
        and bool(CHARACTER.match(chr(point))) != bool(WITHOUT_SPACES.match(chr(point)))
    ]
    assert not differing


def test_marks_stay_with_their_letters() -> None:
    assert set_apart("དུས་ཚོད").split() == ["དུ", "ས", "་", "ཚོ", "ད"]


def test_words_are_those_of_the_corpus() -> None:
    for text in ("今日は成語しりとりをした", "ภาษาไทยมีระดับเสียง", "អាកាសធាតុថ្ងៃនេះ", "a brown 狐 fox2"):
        assert [text[begin:end] for begin, end in word_spans(text)] == words(text)
        assert set_apart(text).split() == words(text)


def test_languages() -> None:
    german = "Der Turm der Kirche steht auf dem Hügel und nicht in der Stadt, die man von dort sieht."
    english = "The tower of the church is on the hill and not in the town that is seen from there."
    assert most_frequent_language([german]) == "de"
    assert most_frequent_language([german, english, english]) == "en"
    assert most_frequent_language(["今日は成語しりとりをした", "明日は京都です"]) == "ja"
    assert most_frequent_language(["他在学校里学习成语和古诗"]) == "zh"
    assert most_frequent_language(["x = 1", "y = 2"]) is None
    assert most_frequent_language([]) is None
