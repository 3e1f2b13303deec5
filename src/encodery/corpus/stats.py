"""Statistics of a finished corpus, computed in one pass: words, document lengths, scripts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.corpus.shards import SPLITS, read_documents, shard_paths

KIND = "corpus"
LETTERS_READ = 2000
# The ends of the Unicode blocks of the most frequent letters; the names of other letters are looked up.
BLOCKS = ((0x250, "Latin"), (0x370, "Other"), (0x400, "Greek"), (0x530, "Cyrillic"))
# fmt: off
SCRIPTS = frozenset((
    "LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "DEVANAGARI", "BENGALI", "TAMIL",
    "TELUGU", "THAI", "GEORGIAN", "HANGUL", "HIRAGANA", "KATAKANA", "ETHIOPIC", "KHMER", "LAO",
    "MYANMAR", "TIBETAN", "SINHALA", "GUJARATI", "GURMUKHI", "KANNADA", "MALAYALAM", "MONGOLIAN",
))
# fmt: on


@dataclass
class CorpusStats:
    """Statistics of a corpus.

    Attributes:
        documents, bytes, words: totals by split; words are separated by whitespace.
        histogram: upper edge in words -> number of documents.
        max_words: the words of the longest document.
        scripts: script -> fraction of the letters, in the first 2,000 characters of each document.
    """

    documents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    histogram: dict[int, int] = field(default_factory=dict)
    max_words: int = 0
    scripts: dict[str, float] = field(default_factory=dict)


def measure_corpus(corpus: str | Path) -> CorpusStats:
    """Return the statistics of a corpus. Raises `ArtifactError` if it is not a corpus or if a shard is damaged."""
    artifact = Artifact.open(corpus, KIND)
    stats = CorpusStats()
    lengths: Counter[int] = Counter()
    scripts: Counter[str] = Counter()
    for split in SPLITS:
        count = size = words = 0
        for document in read_documents(shard_paths(artifact.path, split)):
            length = len(document.text.split())
            count, words = count + 1, words + length
            size += len(document.text.encode("utf-8"))
            lengths[1 << max(3, (length - 1).bit_length() if length else 0)] += 1
            stats.max_words = max(stats.max_words, length)
            scripts.update(count_scripts(document.text[:LETTERS_READ]))
        stats.documents[split], stats.bytes[split], stats.words[split] = count, size, words
    stats.histogram = {edge: lengths[edge] for edge in sorted(lengths)}
    letters = max(1, sum(scripts.values()))
    stats.scripts = {name: count / letters for name, count in scripts.most_common()}
    return stats


def count_scripts(text: str) -> Counter[str]:
    """Return the number of letters of a text in each script."""
    counts: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, text)).items():
        counts[_script(letter)] += count
    return counts


def _script(letter: str) -> str:
    for end, name in BLOCKS:
        if ord(letter) < end:
            return name
    first = unicodedata.name(letter, "OTHER").split(" ")[0].split("-")[0]
    return "Han" if first == "CJK" else first.title() if first in SCRIPTS else "Other"
