"""Held-out metrics: the fixed masks, used in training and by `encodery evaluate mlm`, and how an objective is judged.

Which tokens are masked depends on the ids of the document, the position and a seed, and on nothing else: not on the
model, its training, the length of sequences, the batches or the order of documents. So two runs with one tokenizer are
scored on the same masked tokens. A hash of each position masks `mask_rate` (15 %) of the tokens, never a special one.
All of them become [MASK]: with the 80/10/10 rule of training a tenth could be copied from the input, and a model
trained with [MASK] alone could not be compared with one that was not. Documents are split into pieces of equal length;
if fewer tokens are scored than there are, the pieces come from all over the split, so that a part is as hard as the
whole.

`loss` is the mean cross entropy in nats of the masked tokens, `accuracy` the fraction that is predicted correctly.
`bits_per_byte` = loss / ln 2 · tokens / bytes, with the tokens and UTF-8 bytes of the whole split: the bits that it
takes to predict a masked token, per byte of text that a token covers. So tokenizers with long and short tokens can be
compared, and one that drops spaces has no advantage: spaces are bytes of the text.

Shapes: T tokens, M masked tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from encodery.base.errors import EmptyInput
from encodery.base.machine import derive_seed
from encodery.corrupt import Vocabulary
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.objectives import LossTerm, ObjectiveModule, cross_entropy_metrics, masked_token_terms, step_metrics
from encodery.tokens.feeds import DataFeed
from encodery.tokens.loader import LoaderSettings, PackedLoader
from encodery.tokens.shuffle import hash_under_key, permute
from encodery.tokens.store import TokenSplit
from encodery.train.distributed import DistributedContext

MASK_RATE = 0.15
BATCH_TOKENS = 8192
Ids = npt.NDArray[np.int64]
Evaluate = Callable[[Model, Batch, torch.Generator], dict[str, LossTerm]]
Mask = npt.NDArray[np.bool_]


def heldout_mask(ids: Ids, special: Mask, mask_rate: float = MASK_RATE, seed: int = 0) -> Mask:
    """(n,) bool: which tokens of a document are masked; `special` (V,): which ids are special tokens."""
    key = derive_seed(seed, "heldout", ids.astype("<u4").tobytes().hex())
    hashes = hash_under_key(np.arange(len(ids)), key)
    return (hashes < np.uint64(mask_rate * 2.0**64)) & ~special[ids]


def heldout_batches(
    split: TokenSplit,
    vocabulary: Vocabulary,
    max_length: int,
    tokens: int | None = None,
    mask_rate: float = MASK_RATE,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Batch]:
    """Packed batches with `extra["masked_positions"]` (M,) and `extra["labels"]` (M,), documents in a fixed shuffled
    order.

    Evenly spaced pieces of the documents are taken until about `tokens` tokens are reached, at least one piece (None:
    all of the split). Sequences have at most `max_length` tokens, [CLS] and [SEP] included."""
    special = vocabulary.special.numpy()
    pieces: list[tuple[Ids, Mask]] = []
    size = 0
    for ids, mask in _pieces(split, special, max_length, tokens, mask_rate, seed):
        if pieces and size + len(ids) > batch_tokens:
            yield _batch(pieces, vocabulary.mask_id)
            pieces, size = [], 0
        pieces.append((ids, mask))
        size += len(ids)
    if pieces:
        yield _batch(pieces, vocabulary.mask_id)


def score_mlm(model: Model, batches: Iterable[Batch], tokens_per_byte: float) -> dict[str, float]:
    """Judge a model by its masked-language-model head.

    Args:
        model: The model, which keeps its mode.
        batches: From `heldout_batches`.
        tokens_per_byte: `split.tokens / split.bytes`.

    Returns `loss`, `accuracy`, `bits_per_byte`, `perplexity`, and the numbers of `tokens` and of `predicted` tokens.
    Raises `EmptyInput` if no token was masked.
    """
    terms, tokens, predicted = list[Mapping[str, LossTerm]](), 0, 0
    for batch in _evaluated(model, batches):
        terms.append(masked_token_terms(model, batch, model(batch)))
        tokens += batch.tokens
        predicted += batch.extra["labels"].numel()
    if not predicted:
        raise EmptyInput("There is nothing to score: the held-out split holds no token that could be masked.")
    means = step_metrics(terms)
    derived = cross_entropy_metrics(means["loss"], tokens_per_byte)
    return {**means, **derived, "tokens": float(tokens), "predicted": float(predicted)}


def fed_batches(
    split: TokenSplit, settings: LoaderSettings, feed: DataFeed, tokens: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[Batch]:
    """Batches that a feed makes of held-out documents, always the same ones, until about `tokens` tokens or those of
    the split are reached; none if it cannot be made of them."""
    target = min(tokens, split.tokens)
    size = max(settings.max_length, min(batch_tokens, target))
    try:
        loader = PackedLoader(split, dataclasses.replace(settings, batch_tokens=size), 0, feed=feed)
    except EmptyInput:
        return
    done = 0
    while done < target:
        packed = loader.next()
        done += packed.tokens
        assert packed.segment is not None
        assert packed.relation is not None
        ids, segment, relation = map(torch.from_numpy, (packed.ids, packed.segment, packed.relation))
        yield Batch(ids, torch.from_numpy(packed.cu_seqlens), packed.max_seqlen, segment, {"relation": relation})


def score_objective(
    model: Model,
    objective: ObjectiveModule,
    batches: Iterable[Batch],
    tokens_per_byte: float,
    distributed: DistributedContext,
    fed: Iterable[Batch] = (),
) -> dict[str, float]:
    """Judge held-out text by what the objective trains: `batches` by `evaluate`, `fed`, those of its feed, by
    `evaluate_fed`.

    Every rank evaluates its own of the batches, which are equal on all ranks. Model and objective keep their mode.
    Returns the metrics of the objective, with `loss`; empty if there was nothing to judge.
    """
    training = objective.training
    objective.eval()
    try:
        terms = _terms_of_rank(objective.evaluate, model, batches, distributed)
        terms += _terms_of_rank(objective.evaluate_fed, model, fed, distributed)
    finally:
        objective.train(training)
    means = step_metrics(terms, distributed.all_reduce if distributed.world > 1 else None)
    if all(math.isnan(mean) for name, mean in means.items() if name != "loss" or len(means) == 1):
        return {}
    return objective.heldout_metrics(means, tokens_per_byte)


def _evaluated(model: Model, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches on the model's device, while it is in evaluation mode and without gradients."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                yield batch if device.type == "cpu" else batch.to(device)
    finally:
        model.train(training)


def _terms_of_rank(
    evaluate: Evaluate, model: Model, batches: Iterable[Batch], distributed: DistributedContext
) -> list[dict[str, LossTerm]]:
    """The terms of this rank's batches. The ranks add up equal names, so a rank without a batch adds zeros."""
    terms: list[dict[str, LossTerm]] = []
    first: Batch | None = None
    for index, batch in enumerate(_evaluated(model, batches)):
        first = batch if first is None else first
        if index % distributed.world == distributed.rank:
            terms.append(evaluate(model, batch, _generator(batch, index)))
    if first is not None and not terms:
        own = evaluate(model, first, _generator(first, 0))
        terms.append({name: LossTerm(term.total * 0, 0, term.weight) for name, term in own.items()})
    return terms


def _generator(batch: Batch, index: int) -> torch.Generator:
    return torch.Generator(batch.ids.device).manual_seed(derive_seed(0, "heldout draws", index))


def _pieces(
    split: TokenSplit, special: Mask, max_length: int, tokens: int | None, mask_rate: float, seed: int
) -> Iterator[tuple[Ids, Mask]]:
    """The ids of each piece with [CLS] and [SEP], and which of them are masked."""
    order = permute(np.arange(len(split)), len(split), derive_seed(seed, "heldout order"))
    first, last = np.array([split.special_tokens.cls_id]), np.array([split.special_tokens.sep_id])
    unmasked = np.zeros(1, np.bool_)
    counts = -(-split.lengths[order] // (max_length - 2))
    ends = np.cumsum(counts)
    total = max(split.tokens + 2 * int(counts.sum()), 1)
    target = total if tokens is None else min(tokens, total)
    # How many pieces are taken before each document, and up to its end.
    before, after = (-(-pieces * target // total) for pieces in (ends - counts, ends))
    for index in np.flatnonzero(after > before).tolist():
        ids = split[int(order[index])].astype(np.int64)
        mask = heldout_mask(ids, special, mask_rate, seed)
        bounds = np.linspace(0, len(ids), int(counts[index]) + 1).astype(int)
        numbers = np.arange(ends[index] - counts[index], ends[index])
        taken = np.flatnonzero(numbers * target % total < target)
        for start, end in zip(bounds[taken].tolist(), bounds[taken + 1].tolist(), strict=True):
            piece = np.concatenate([first, ids[start:end], last])
            yield piece, np.concatenate([unmasked, mask[start:end], unmasked])


def _batch(pieces: list[tuple[Ids, Mask]], mask_id: int) -> Batch:
    pieces = sorted(pieces, key=lambda piece: len(piece[0]))
    lengths = [len(ids) for ids, _ in pieces]
    ids = torch.from_numpy(np.concatenate([ids for ids, _ in pieces]))
    masked_positions = torch.from_numpy(np.flatnonzero(np.concatenate([mask for _, mask in pieces])))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    masked = ids.clone()
    masked[masked_positions] = mask_id
    extra = {"masked_positions": masked_positions, "labels": ids[masked_positions]}
    return Batch(masked, cu_seqlens, max(lengths), None, extra)
