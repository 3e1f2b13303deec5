"""Compare the masked language modelling of models on held-out text.

All models predict the masked tokens of `train/heldout.py`: 15 % of the tokens of the same documents, masked by a hash.
If all models share the tokenizer of the token store, they predict the same tokens and their difference has an interval.
Otherwise the held-out text of the corpus is encoded with the tokenizer of each model, and only bits per byte compare.
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
DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class MLMScore:
    """The metrics of one model.

    Attributes:
        loss_interval, accuracy_interval: 95 % intervals over groups of documents.
        predicted: the number of masked tokens.
        tokens, seconds: the tokens that were read, without padding, and the time.
        length: the longest sequence; longer documents are read in pieces and nothing is dropped.
        difference_interval: the interval of the loss minus that of the first model, if both predicted the same tokens.
        p: the probability of a difference as large by chance.
    """

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
        """Return the metrics as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class HeldoutTexts:
    """Held-out documents in memory as token ids, with the interface of a split of a token store."""

    ids: list[np.ndarray]
    bytes: int
    special_tokens: SpecialTokens

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.ids[number]

    @property
    def tokens(self) -> int:
        """The tokens of all documents without special tokens."""
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each document (D,) int64."""
        return np.array([len(ids) for ids in self.ids], np.int64)


def evaluate_mlm(
    models: Sequence[str | Path], data: str | Path, tokens: int | None = None, length: int | None = None
) -> list[MLMScore]:
    """Evaluate models on the held-out split of a token store or a corpus.

    Args:
        tokens: the maximum number of tokens to read.
        length: the longest sequence; None for the longest that all models were trained on.

    Raises `ArtifactError` for other data, or if the text of a token store cannot be found; `InputError`; `EmptyInput`.
    """
    from encodery.model.load import load_model

    loaded = [load_model(model) for model in models]
    if not loaded:
        raise InputError("No model was given; name at least one.")
    for each in loaded:
        if "mlm" not in each.model.heads:
            raise InputError(f"{each.path}: has no masked-language-model head, so it cannot predict masked tokens.")
    longest = min(_trained_length(each) for each in loaded)
    if length is not None and not 8 <= length <= min(each.model.settings.max_length for each in loaded):
        raise InputError(f"length = {length}: must lie between 8 and the maximum length of every model.")
    splits = _splits(loaded, Artifact.open(data, ("tokens", "corpus")))
    scores = [
        _score(str(name), each, split, length or longest, tokens)
        for name, each, split in zip(models, loaded, splits, strict=True)
    ]
    return [score for score, _ in _compared(scores)]


def _trained_length(loaded: LoadedModel) -> int:
    """Return the sequence length of the model's recipe, or else its maximum length up to 512."""
    max_length = loaded.model.settings.max_length
    feed = loaded.settings.get("recipe", {}).get("settings", {}).get("feed", {})
    return min(max_length, feed.get("max_length") or DEFAULT_LENGTH)


def _splits(loaded: list[LoadedModel], data: Artifact) -> list[TokenSplit | HeldoutTexts]:
    """Return the held-out documents for each model: ids of the store if all share its tokenizer, else encoded text."""
    from encodery.tokens.store import TokenStore

    corpus = data
    if data.manifest.kind == "tokens":
        store = TokenStore.open(data.path)
        if not len(store.heldout):
            raise EmptyInput(f"{data.path}: contains no held-out documents.")
        if all(each.tokenizer.fingerprint == store.tokenizer.fingerprint for each in loaded):
            return [store.heldout for _ in loaded]
        corpus = _corpus_of(data)
    if not corpus.manifest.metrics.get("heldout_documents", 1):
        raise EmptyInput(f"{corpus.path}: contains no held-out documents.")
    known: dict[str, HeldoutTexts] = {}
    for each in loaded:
        if each.tokenizer.fingerprint not in known:
            known[each.tokenizer.fingerprint] = encode_heldout(corpus.path, each.tokenizer)
    return [known[each.tokenizer.fingerprint] for each in loaded]


def _corpus_of(store: Artifact) -> Artifact:
    parent = store.manifest.parents.get("corpus")
    try:
        corpus = Artifact.open(parent["path"], "corpus") if parent else None
    except ArtifactError:
        corpus = None
    if parent is None or corpus is None or corpus.manifest.fingerprint != parent["fingerprint"]:
        raise ArtifactError(
            f"{store.path}: was encoded with another tokenizer than that of the model, and its corpus is no longer at "
            "its path. Give the corpus instead."
        )
    return corpus


def encode_heldout(corpus: Path, tokenizer: Tokenizer, max_bytes: int = TEXT_BYTES) -> HeldoutTexts:
    """Encode the held-out documents of a corpus, up to `max_bytes` of them. Raises `EmptyInput`."""
    from encodery.corpus.shards import read_documents, shard_paths
    from encodery.tokens.encode import special_tokens_of

    texts: list[str] = []
    size = 0
    for document in read_documents(shard_paths(corpus, "heldout")):
        length = len(document.text.encode("utf-8", errors="replace"))
        if texts and size + length > max_bytes:
            break
        texts.append(document.text)
        size += length
    if not texts:
        raise EmptyInput(f"{corpus}: contains no held-out documents.")
    return HeldoutTexts(list(tokenizer.encode_batch(texts)), size, special_tokens_of(tokenizer))


def _score(
    name: str, loaded: LoadedModel, split: TokenSplit | HeldoutTexts, length: int, tokens: int | None
) -> tuple[MLMScore, np.ndarray]:
    """Return the score, and the cross entropies and counts of its groups (G, 2)."""
    from encodery.corrupt import Vocabulary
    from encodery.train.heldout import heldout_batches, score_mlm

    model = loaded.model.to(device())
    vocabulary = Vocabulary.of(loaded.tokenizer)
    batches = heldout_batches(cast("TokenSplit", split), vocabulary, length, tokens, batch_tokens=GROUP_TOKENS)
    rate = split.tokens / max(split.bytes, 1)
    start = time.perf_counter()
    groups = [score_mlm(model, [batch], rate) for batch in batches if batch.extra["masked_positions"].numel()]
    seconds = time.perf_counter() - start
    if not groups:
        raise EmptyInput("The held-out documents contain no token that can be masked.")
    counts = np.array([group["predicted"] for group in groups])
    losses = np.array([group["loss"] for group in groups]) * counts
    correct = np.array([group["accuracy"] for group in groups]) * counts
    loss = float(losses.sum() / counts.sum())
    score = MLMScore(
        model=name,
        loss=loss,
        loss_interval=group_interval(losses, counts),
        accuracy=float(correct.sum() / counts.sum()),
        accuracy_interval=group_interval(correct, counts),
        bits_per_byte=loss / float(np.log(2)) * rate,
        perplexity=float(np.exp(min(loss, 100.0))),
        predicted=int(counts.sum()),
        tokens=int(sum(group["tokens"] for group in groups)),
        seconds=seconds,
        length=length,
        tokenizer=loaded.tokenizer.fingerprint,
    )
    return score, np.stack([losses, counts], 1)


def _compared(scores: list[tuple[MLMScore, np.ndarray]]) -> list[tuple[MLMScore, np.ndarray]]:
    """Add to each later model its difference to the first, if both predicted the same tokens."""
    first, base = scores[0]
    compared = [scores[0]]
    for score, groups in scores[1:]:
        same = score.tokenizer == first.tokenizer and np.array_equal(groups[:, 1], base[:, 1])
        if same:
            interval = group_difference(base[:, 0], groups[:, 0], base[:, 1])
            score = replace(score, difference_interval=interval, p=sign_flip(groups[:, 0] - base[:, 0]))
        compared.append((score, groups))
    return compared
