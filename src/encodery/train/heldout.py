"""Held-out metrics of masked language modelling: the one definition, used in training and by `encodery evaluate mlm`.

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

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encodery.base.errors import EmptyInput
from encodery.base.machine import derive_seed
from encodery.corrupt import Vocabulary
from encodery.model.network import Model
from encodery.model.ops.masked_cross_entropy.chunked import masked_cross_entropy
from encodery.model.shape import Batch, Output
from encodery.tokens.shuffle import hash_under_key, permute
from encodery.tokens.store import TokenSplit

MASK_RATE = 0.15
BATCH_TOKENS = 8192
Ids = npt.NDArray[np.int64]
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


def score_mlm(
    model: Model,
    batches: Iterable[Batch],
    tokens_per_byte: float,
    sum_over_ranks: Callable[[Tensor], None] | None = None,
    encode: Callable[[Model, Batch], Output] | None = None,
) -> dict[str, float]:
    """`loss`, `accuracy`, `bits_per_byte`, `perplexity`, and the numbers of `tokens` and of `predicted` tokens.

    Args: `batches` from `heldout_batches`; each rank gives its own and `sum_over_ranks` adds up. `tokens_per_byte`:
    `split.tokens / split.bytes`. `encode`: how a batch runs through the model (None: as it is). The model keeps its
    mode. Raises `EmptyInput` if no token was masked."""
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for each in batches:
                batch = each if device.type == "cpu" else each.to(device)
                sums += _batch_sums(model, batch, model(batch) if encode is None else encode(model, batch))
    finally:
        model.train(training)
    if sum_over_ranks is not None:
        sum_over_ranks(sums)
    total, correct, predicted, tokens = sums.tolist()
    if not predicted:
        raise EmptyInput("There is nothing to score: the held-out split holds no token that could be masked.")
    loss = total / predicted
    return {
        "loss": loss,
        "accuracy": correct / predicted,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "perplexity": math.exp(min(loss, 100.0)),
        "tokens": tokens,
        "predicted": predicted,
    }


def _batch_sums(model: Model, batch: Batch, output: Output) -> Tensor:
    """(4,) float64: Σ cross entropy, correct predictions, predictions, tokens."""
    features = model.mlm_head.features(output.hidden[batch.extra["masked_positions"]])
    weight, bias = model.mlm_head.decoder(model.encoder)
    result = masked_cross_entropy(features, weight, bias, batch.extra["labels"])
    counts = torch.tensor([float(result.nll.numel()), float(batch.tokens)], dtype=torch.float64, device=weight.device)
    return torch.cat([result.nll.double().sum()[None], result.correct.double().sum()[None], counts])


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
