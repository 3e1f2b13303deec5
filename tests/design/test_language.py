"""The words that must not come back: private vocabulary in identifiers, settings, prose and docs.

A reader of the code knows torch, transformers, sentence-transformers and the literature, so that everything has the
name it has there. `IDENTIFIERS` are names that must not come back, each with its replacement; `PHRASES` are turns of
phrase at which a technical reader stumbles. Both are searched for in the sources and tests, phrases also in the docs,
recipes and cards. Each message names the file and the line.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "encodery").rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
CODE = [*SOURCES, *TESTS]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "papers/*.toml", "src/encodery/recipes/**/*.toml")
    for path in ROOT.glob(pattern)
)
IDENTIFIERS = {
    **dict.fromkeys(
        ("found", "said", "told", "asked", "given", "ran", "learnt", "dealt", "wanted"), "what the thing is"
    ),
    "figures": "metrics",
    "remarks": "warnings",
    "beside": "alongside",
    "anew": "again",
    "most": "max_*",
    "least": "min_*",
    "Begin": "DataInit",
    "Moment": "TrainState",
    "Micro": "MicroBatch",
    "Work": "StepBatches",
    "Team": "DistributedContext",
    "rows_of_all": "all_gather",
    "Doctor": "Diagnostics",
    "Needs": "MemoryEstimate",
    "Frame": "StaticShape",
    "Feed": "PackedLoader",
    "seats": "micro_batch_ids",
    "micro_tokens": "micro_batch_tokens",
    "Aim": "OffsetPattern",
    "speak": "mlm_logits",
    "straight": "init_identity",
    "Insert": "ModelExtension",
    "Inserted": "ExtensionModules",
    "Front": "SequenceTransform",
    "Door": "CheckpointFormat",
    "door_of": "format_of",
    "way_out": "exportable_format",
    "obstacles": "incompatibilities",
    "Known": "TaskMetadata",
    "Tuned": "FineTuned",
    "Stock": "FineTuned",
    "word_rate": "embedding_lr_scale",
    "Finish": "PostProcess",
    "finish_first": "whiten_before_training",
    "Haystack": "NegativePool",
    "Given": "LossInputs",
    "Finder": "Retriever",
    "Opened": "SearchIndex",
    "Ran": "RuntimeProvenance",
    "Supply": "PassageSource",
    "Trust": "RerankWeight",
    "Lane": "ServedModel",
    "Asked": "InferenceRequest",
    "Asking": "Dispatcher",
    "Stem": "SharedEncoderGroup",
    "Trunk": "MultiHeadModel",
    "Company": "BatchGroup",
    "Refusal": "ApiError",
    "Ledger": "AdmissionController",
    "Gate": "AuthMiddleware",
}
PHRASES = {
    r"\bof (its|their|his) own\b(?! accord)": "own",
    r"\banew\b": "again",
    r"\bso many\b": "N, that many",
    r"\bvectors? (of tokens|a token)\b": "multi-vector embeddings",
    r"\bweights of words\b|\bword weights\b": "sparse term weights",
    r"\bword table\b": "token embeddings",
    r"\b(wrong|right) answers?\b(?!\.\")": "negatives, positive",  # Not the prompt "Choose the right answer."
    r"\bhidden tokens\b": "masked tokens",
    r"\bthe rate\b(?! (of|at) )": "the learning rate, or which rate",
    r"\bbegins? as\b": "is initialised as",
    r"\b(goes|gone|going|go) on\b": "continues, resumes",
    r"\bfalls? off\b": "decays, is dropped",
    r"\b(comes|came) to (?!(an? |the )?(end|help|use))": "falls back to, reaches",
    r"\b(is|are|was|were) told\b": "is reported",
    r"\bstands? in\b": "is in",
    r"\blearns? on\b": "continues training",
    r"\bas many as\b.*\bas there are\b": "one per",
}
MAX_PARTICIPLES = 400
"""Participles in prose, such as "a given layer", are English; this many occurrences keep them from being a habit."""
MAX_TEST_PARTICIPLES = 50
"""The same of the tests; sentences that are data, such as "the river ran", count too."""
FOREIGN = {"given"}
"""Identifiers of libraries that tests use: the decorator of hypothesis."""
PARTICIPLES = re.compile(r"\b(found|told|said|asked|given|learnt|dealt|ran)\b")


def tokens_of(path: Path) -> Iterator[tokenize.TokenInfo]:
    yield from tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_are_the_terms_of_the_field(path: Path) -> None:
    old = [
        f"{place(path, token.start[0])}: {token.string}, call it {IDENTIFIERS[token.string]}"
        for token in tokens_of(path)
        if token.type == tokenize.NAME and token.string in IDENTIFIERS
        if path in SOURCES or token.string not in FOREIGN
    ]
    assert not old, "\n".join(old)


def phrases_in(path: Path, text: str, first_line: int) -> list[str]:
    """Return the place of every phrase, also of those that are broken over two lines."""
    flat = re.sub(r"\n[ \t]*#?[ \t]*", lambda match: "\n" + " " * (len(match.group()) - 1), text)
    joined = re.sub(r"\s", " ", flat)
    return [
        f"{place(path, first_line + flat.count(chr(10), 0, match.start()))}: '{match.group()}', say {instead}"
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase.replace(" ", " +"), joined)
    ]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_in_the_code_is_plain(path: Path) -> None:
    strings = [t for t in tokens_of(path) if t.type in (tokenize.STRING, tokenize.COMMENT)]
    old = [line for token in strings for line in phrases_in(path, token.string, token.start[0])]
    assert not old, "\n".join(old)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_in_the_docs_is_plain(path: Path) -> None:
    old = phrases_in(path, path.read_text(encoding="utf-8"), 1)
    assert not old, "\n".join(old)


@pytest.mark.parametrize(("paths", "limit"), [(SOURCES, MAX_PARTICIPLES), (TESTS, MAX_TEST_PARTICIPLES)])
def test_participles_are_no_habit(paths: list[Path], limit: int) -> None:
    counts = {path: len(PARTICIPLES.findall(path.read_text(encoding="utf-8"))) for path in paths}
    largest = sorted(counts.items(), key=lambda item: -item[1])[:10]
    assert sum(counts.values()) <= limit, "\n".join(f"{place(path, 1)}: {n}" for path, n in largest)


@pytest.mark.parametrize(
    ("text", "line"),
    [("x\ny goes\n    on", 12), ("the words of its own", 11), ("# vectors of\n# tokens", 11)],
)
def test_a_phrase_is_seen_over_a_line_break(text: str, line: int) -> None:
    assert [place.split(":")[1] for place in phrases_in(ROOT / "x.py", text, 11)] == [str(line)]
