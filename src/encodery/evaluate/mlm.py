"""Held-out masked-language-model figures of finished models, side by side.

All models answer the questions of `train/heldout.py`: 15 % of the tokens of the same documents, hidden by a hash. On a
token store whose tokenizer all models share they answer the very same questions, so their difference has an interval
too; else the held-out text of the corpus is encoded by each model's own tokenizer, and only bits per byte compare.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.base.machine import device
from encodery.evaluate.significance import group_difference, group_interval, sign_flip

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.store import SpecialTokens, TokenSplit
    from encodery.tokens.tokenizer import Tokenizer

TEXT_BYTES = 20_000_000
GROUP_TOKENS = 2048
USUAL_LENGTH = 512


@dataclass(frozen=True)
class MLMScore:
    """Figures of one model. `*_interval` are 95 % intervals over groups of documents; `behind` is the interval of its
    loss minus that of the first model, where both answered the same questions, and `p` how often chance alone makes
    one as large, if each group's two losses might as well be swapped. `tokens` were read in `seconds`, without padding;
    documents longer than `length` are read in pieces, nothing of them is dropped."""

    model: str
    loss: float
    loss_interval: tuple[float, float] | None
    accuracy: float
    accuracy_interval: tuple[float, float] | None
    bits_per_byte: float
    perplexity: float
    predicted: int
    tokens: int
    seconds: float
    length: int
    tokenizer: str
    difference_interval: tuple[float, float] | None = None
    p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class HeldoutTexts:
    """Held-out documents in memory, as ids of one tokenizer; reads like a split of a token store."""

    ids: list[np.ndarray]
    bytes: int
    special_tokens: SpecialTokens

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.ids[number]

    @property
    def tokens(self) -> int:
        """Tokens of all documents, special ones not counted."""
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        """(D,) int64: tokens of each document."""
        return np.array([len(ids) for ids in self.ids], np.int64)


def evaluate_mlm(
    models: Sequence[str | Path], data: str | Path, tokens: int | None = None, length: int | None = None
) -> list[MLMScore]:
    """Score models on the held-out part of a token store or a corpus.

    `tokens`: how many to read at most; `length`: longest sequence, by default the longest every model was trained on.
    Raises `ArtifactError` for data that is neither, or no longer leads to its text; `InputError`, `EmptyInput`.
    """
    from encodery.model.load import load_model

    loaded = [load_model(model) for model in models]
    if not loaded:
        raise InputError("No model was given.")
    for each in loaded:
        if "mlm" not in each.model.heads:
            raise InputError(f"{each.path}: has no masked-language-model head, so it cannot guess hidden tokens.")
    longest = min(_trained_length(each) for each in loaded)
    if length is not None and not 8 <= length <= min(each.model.settings.max_length for each in loaded):
        raise InputError(f"length = {length}: must lie between 8 and what every model takes.")
    splits = _splits(loaded, Artifact.open(data, ("tokens", "corpus")))
    found = [
        _score(str(name), each, split, length or longest, tokens)
        for name, each, split in zip(models, loaded, splits, strict=True)
    ]
    return [score for score, _ in _behind(found)]


def _trained_length(loaded: LoadedModel) -> int:
    """The longest sequence the model's recipe fed it; else what it takes, up to 512."""
    most = loaded.model.settings.max_length
    feed = loaded.settings.get("recipe", {}).get("settings", {}).get("feed", {})
    return min(most, feed.get("max_length") or USUAL_LENGTH)


def _splits(loaded: list[LoadedModel], data: Artifact) -> list[TokenSplit | HeldoutTexts]:
    """The held-out documents for each model: the store's ids where all share its tokenizer, else encoded text."""
    from encodery.tokens.store import TokenStore

    corpus = data
    if data.manifest.kind == "tokens":
        store = TokenStore.open(data.path)
        if not len(store.heldout):
            raise EmptyInput(f"{data.path}: holds no held-out documents.")
        if all(each.tokenizer.fingerprint == store.tokenizer.fingerprint for each in loaded):
            return [store.heldout for _ in loaded]
        corpus = _corpus_of(data)
    if not corpus.manifest.metrics.get("heldout_documents", 1):
        raise EmptyInput(f"{corpus.path}: holds no held-out documents.")
    known: dict[str, HeldoutTexts] = {}
    for each in loaded:
        if each.tokenizer.fingerprint not in known:
            known[each.tokenizer.fingerprint] = encode_heldout(corpus.path, each.tokenizer)
    return [known[each.tokenizer.fingerprint] for each in loaded]


def _corpus_of(store: Artifact) -> Artifact:
    parent = store.manifest.parents.get("corpus")
    try:
        found = Artifact.open(parent["path"], "corpus") if parent else None
    except ArtifactError:
        found = None
    if parent is None or found is None or found.manifest.fingerprint != parent["fingerprint"]:
        raise ArtifactError(
            f"{store.path}: was packed with another tokenizer than the model's, and its corpus is not where it was. "
            "Give the corpus instead."
        )
    return found


def encode_heldout(corpus: Path, tokenizer: Tokenizer, most: int = TEXT_BYTES) -> HeldoutTexts:
    """The held-out documents of a corpus, `most` bytes of them at most, by one tokenizer."""
    from encodery.corpus.shards import read_documents, shard_paths
    from encodery.tokens.encode import special_tokens_of

    texts: list[str] = []
    size = 0
    for document in read_documents(shard_paths(corpus, "heldout")):
        here = len(document.text.encode("utf-8", errors="replace"))
        if texts and size + here > most:
            break
        texts.append(document.text)
        size += here
    if not texts:
        raise EmptyInput(f"{corpus}: holds no held-out documents.")
    return HeldoutTexts(list(tokenizer.encode_batch(texts)), size, special_tokens_of(tokenizer))


def _score(
    name: str, loaded: LoadedModel, split: TokenSplit | HeldoutTexts, length: int, tokens: int | None
) -> tuple[MLMScore, np.ndarray]:
    """The score, and (G, 2) cross entropies and counts of its groups."""
    from encodery.corrupt import Vocabulary
    from encodery.train.heldout import heldout_batches, score_mlm

    model = loaded.model.to(device())
    vocabulary = Vocabulary.of(loaded.tokenizer)
    asked = heldout_batches(cast("TokenSplit", split), vocabulary, length, tokens, batch_tokens=GROUP_TOKENS)
    rate = split.tokens / max(split.bytes, 1)
    begun = time.perf_counter()
    groups = [score_mlm(model, [batch], rate) for batch in asked if batch.extra["masked_positions"].numel()]
    seconds = time.perf_counter() - begun
    if not groups:
        raise EmptyInput("The held-out documents hold no token that could be hidden.")
    counts = np.array([group["predicted"] for group in groups])
    losses = np.array([group["loss"] for group in groups]) * counts
    right = np.array([group["accuracy"] for group in groups]) * counts
    loss = float(losses.sum() / counts.sum())
    score = MLMScore(
        model=name,
        loss=loss,
        loss_interval=group_interval(losses, counts),
        accuracy=float(right.sum() / counts.sum()),
        accuracy_interval=group_interval(right, counts),
        bits_per_byte=loss / float(np.log(2)) * rate,
        perplexity=float(np.exp(min(loss, 100.0))),
        predicted=int(counts.sum()),
        tokens=int(sum(group["tokens"] for group in groups)),
        seconds=seconds,
        length=length,
        tokenizer=loaded.tokenizer.fingerprint,
    )
    return score, np.stack([losses, counts], 1)


def _behind(found: list[tuple[MLMScore, np.ndarray]]) -> list[tuple[MLMScore, np.ndarray]]:
    """Each later model against the first, where both answered the same questions."""
    first, base = found[0]
    compared = [found[0]]
    for score, groups in found[1:]:
        same = score.tokenizer == first.tokenizer and np.array_equal(groups[:, 1], base[:, 1])
        if same:
            apart = group_difference(base[:, 0], groups[:, 0], base[:, 1])
            score = replace(score, difference_interval=apart, p=sign_flip(groups[:, 0] - base[:, 0]))
        compared.append((score, groups))
    return compared
