"""Each rule on a tiny document made to break it; the fast screens against datatrove's own filters."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.word_tokenizers import load_word_tokenizer

from encodery.base.errors import SettingsError
from encodery.corpus.steps.dedup._minhash import SignatureStep, minhash_config, modulo
from encodery.corpus.steps.filter import Filter
from encodery.corpus.steps.filter.c4 import C4
from encodery.corpus.steps.filter.fineweb import Fineweb
from encodery.corpus.steps.filter.gopher_quality import GopherQuality
from encodery.corpus.steps.filter.gopher_repetition import GopherRepetition
from encodery.corpus.steps.filter.language import Language
from encodery.corpus.steps.filter.length import Length
from encodery.corpus.words import AnyScriptTokenizer, has_words, is_spaceless, words

GERMAN = "Der Hund und die Katze sind in dem Haus, das nicht weit von der Stadt auf einem Berg steht. " * 2
FINNISH = "Ihminen on syntynyt vapaana ja tasavertaisena, mutta hän ei aina ole sitä, mitä hänen pitäisi olla. " * 2
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
GREENLANDIC = (
    "Inuit tamarmik inunngorput nammineersinnaassuseqarlutik assigiimmillu ataqqinassuseqarlutik "
    "pisinnaatitaaffeqarlutillu."
)
HINDI = "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।"


def verdict(part: Filter, text: str) -> bool | str:
    result = part.build().filter(Document(text=text, id="0"))
    return result if isinstance(result, bool) else result[1]


@pytest.mark.parametrize("sample", [GERMAN, FINNISH, JAPANESE, GREENLANDIC, HINDI])
def test_the_default_filters_keep_every_language(sample: str) -> None:
    for part in (Length(min_words=5), GopherQuality(max_word_length=30), GopherRepetition(ngram_limit_scale=5)):
        assert verdict(part, sample) is True, part


def test_word_length_is_not_tested_in_scripts_without_spaces() -> None:
    assert verdict(GopherQuality(), JAPANESE) is True
    assert verdict(GopherQuality(), " ".join("x" * 20 for _ in range(50))) == "long_words"
    assert verdict(GopherQuality(), "a b c d e f g") == "short_words"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("word # " * 20, "too_many_hashes"),
        ("word... and " * 20, "too_many_ellipsis"),
        ("- one item here\n" * 20, "too_many_bullets"),
        ("a line that ends so long and then some more words …\n" * 20, "too_many_end_ellipsis"),
        ("1234 5678 9012 word " * 20, "too_few_letters"),
        ("... --- ...", "no_words"),
    ],
)
def test_gopher_quality_reasons(text: str, reason: str) -> None:
    assert verdict(GopherQuality(), text) == reason


def test_stop_words_are_required_for_english_only() -> None:
    assert verdict(GopherQuality(), GERMAN) is True
    assert verdict(GopherQuality(language="en"), GERMAN) == "no_stop_words"
    assert verdict(GopherQuality(language="en"), "the dog and the cat sat with a hat to be warm") is True


def test_gopher_quality_agrees_with_datatrove() -> None:
    part = GopherQuality(language="en", min_word_length=3, max_word_length=10, max_symbols=0.1, min_letters=0.8)
    ours = part.build()
    theirs = GopherQualityFilter(
        min_doc_words=1,
        max_doc_words=None,
        language=AnyScriptTokenizer(),
        max_bullet_lines_ratio=0.95,
        max_ellipsis_lines_ratio=0.5,
    )
    source = random.Random(0)
    pool = ["the", "and", "of", "house", "x", "12", "3a", "…", "...", "#", "-", "\n", "\n- ", "to", "3.5"]
    pool.append("extraordinarily")
    seen = set()
    for _ in range(3000):
        weights = [source.random() ** 3 for _ in pool]
        text = " ".join(source.choices(pool, weights, k=source.randint(5, 60)))
        if not words(text):
            continue
        expected = theirs.filter(Document(text=text, id=""))
        result = ours.filter(Document(text=text, id=""))
        seen.add(expected if isinstance(expected, bool) else expected[1])
        assert (result is True) == (expected is True), text
    assert len(seen) >= 6


def test_repetition_screen_agrees_with_datatrove(text: Callable[..., str]) -> None:
    step = GopherRepetition(ngram_limit_scale=1.0).build()
    theirs = GopherRepetitionFilter(
        dup_line_frac=0.5,
        dup_para_frac=0.5,
        dup_line_char_frac=0.3,
        dup_para_char_frac=0.5,
        language=AnyScriptTokenizer(),
    )
    source = random.Random(1)
    dropped = kept = 0
    for number in range(300):
        sample = text(number, 150)
        for _ in range(source.randint(0, 8)):
            at, length = source.randrange(len(sample)), source.randint(5, 200)
            sample = sample[:at] + sample[at : at + length] * source.randint(1, 3) + sample[at:]
        expected = theirs.filter(Document(text=sample, id=""))
        result = step.filter(Document(text=sample, id=""))
        assert result == expected
        dropped, kept = dropped + (expected is not True), kept + (expected is True)
    assert dropped > 30
    assert kept > 30


def test_a_phrase_that_occurs_once_is_not_a_repetition() -> None:
    sample = "Table 9.31 shows some examples of the use of the to_char function."
    assert verdict(GopherRepetition(ngram_limit_scale=1.0), sample) is True
    assert verdict(GopherRepetition(), "buy now cheap watches " * 30) != True  # noqa: E712


def test_length_counts_words_and_characters_without_spaces() -> None:
    assert verdict(Length(min_words=4), "one two three") == "too_short"
    assert verdict(Length(min_words=4), "人人生而") is True
    assert verdict(Length(min_words=0, max_words=3), "one two three four") == "too_long"
    assert verdict(Length(), "  \n") == "empty"
    with pytest.raises(SettingsError, match="min_words = 5, max_words = 3"):
        Length(min_words=5, max_words=3)


def test_c4_drops_code_and_lines_without_punctuation() -> None:
    sample = "\n".join(f"This is sentence number {n} of the page." for n in range(6))
    document = Document(text=sample + "\nmenu home about\n", id="")
    assert C4().build().filter(document) is True
    assert document.text == sample
    assert verdict(C4(), sample + "\nint main() { return 0; }.") == "curly_bracket"
    assert verdict(C4(), "Too short.") == "too_few_sentences"


def test_fineweb_drops_lists() -> None:
    assert verdict(Fineweb(), "\n".join(f"item {n}" for n in range(30))) == "line_punct_ratio"
    assert verdict(Fineweb(), "...") == "no_words"


@pytest.mark.parametrize(("sample", "code"), [(GERMAN, "de"), (FINNISH, "fi"), (JAPANESE, "ja"), (HINDI, "hi")])
def test_language_by_words_and_scripts(sample: str, code: str) -> None:
    assert verdict(Language(languages=(code,)), sample) is True
    assert verdict(Language(languages=("en",)), sample) == f"language_{code}"
    assert verdict(Language(languages=("en",)), "zzz qqq xxx") == "unknown_language"
    with pytest.raises(SettingsError, match="there is no 'eng'"):
        Language(languages=("eng",))


def test_words_of_any_script() -> None:
    assert words("Don't stop the well-known x_1 test, naïve!") == [
        "Don't", "stop", "the", "well-known", "x_1", "test", "naïve",
    ]  # fmt: skip
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert words("東京は big") == ["東", "京", "は", "big"]
    assert is_spaceless("東京は大きい town")
    assert not is_spaceless("Tokyo 東京 is big")
    assert has_words("one two", 2)
    assert not has_words("one two", 3)
    assert hash(AnyScriptTokenizer()) == hash(AnyScriptTokenizer())
    assert load_word_tokenizer(AnyScriptTokenizer()) == AnyScriptTokenizer()


def test_sentences_are_split_without_a_model() -> None:
    assert AnyScriptTokenizer().sent_tokenize("One. Two! Three\nFour?") == ["One.", "Two!", "Three", "Four?"]


def test_modulo_is_exact() -> None:
    prime = np.uint64((1 << 61) - 1)
    numbers = np.random.default_rng(0).integers(0, 2**64, size=10_000, dtype=np.uint64)
    edges = np.array([0, 1, 2**61 - 2, 2**61 - 1, 2**61, 2**62 - 2, 2**62 - 1, 2**64 - 1], dtype=np.uint64)
    for values in (numbers, edges):
        assert np.array_equal(modulo(values.copy()), values % prime)


def test_signatures_equal_datatroves_for_the_same_shingles(tmp_path: object) -> None:
    config = minhash_config(ngram_size=5, num_buckets=14, hashes_per_bucket=8, seed=1)
    ours = SignatureStep(str(tmp_path), config)
    theirs = MinhashDedupSignature(str(tmp_path), config, language=AnyScriptTokenizer())
    shingles = np.random.default_rng(0).integers(0, 2**64, size=(1000, 1), dtype=np.uint64)
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)
    assert ours.get_shingles("too short").shape == (0, 1)
    same = [ours.get_shingles(sample) for sample in ("One two three four five 66.", "one, TWO three four five 7!")]
    assert np.array_equal(*same)
