"""Measures a finished corpus by reading it once: words, lengths, scripts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from encodery.base.artifact import Artifact
from encodery.corpus.shards import SPLITS, read_documents, shard_paths

KIND = "corpus"
LETTERS_READ = 2000
# Ends of the blocks that hold most letters, so that few names must be looked up.
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
    """`words`: characters separated by whitespace. `histogram`: upper edge in words to documents.
    `scripts`: script to its share of the letters read (the first 2,000 characters of each document)."""

    documents: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    histogram: dict[int, int] = field(default_factory=dict)
    max_words: int = 0
    scripts: dict[str, float] = field(default_factory=dict)


def measure_corpus(corpus: str | Path) -> CorpusStats:
    """Read every document of a corpus and count. Raises `ArtifactError` if it is no corpus or a shard is damaged."""
    artifact = Artifact.open(corpus, KIND)
    measured = CorpusStats()
    lengths: Counter[int] = Counter()
    scripts: Counter[str] = Counter()
    for split in SPLITS:
        count = size = words = 0
        for document in read_documents(shard_paths(artifact.path, split)):
            here = len(document.text.split())
            count, words = count + 1, words + here
            size += len(document.text.encode("utf-8"))
            lengths[1 << max(3, (here - 1).bit_length() if here else 0)] += 1
            measured.max_words = max(measured.max_words, here)
            scripts.update(_scripts(document.text[:LETTERS_READ]))
        measured.documents[split], measured.bytes[split], measured.words[split] = count, size, words
    measured.histogram = {edge: lengths[edge] for edge in sorted(lengths)}
    letters = max(1, sum(scripts.values()))
    measured.scripts = {name: count / letters for name, count in scripts.most_common()}
    return measured


def _scripts(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, text)).items():
        found[_script(letter)] += count
    return found


def _script(letter: str) -> str:
    for end, name in BLOCKS:
        if ord(letter) < end:
            return name
    first = unicodedata.name(letter, "OTHER").split(" ")[0].split("-")[0]
    return "Han" if first == "CJK" else first.title() if first in SCRIPTS else "Other"
