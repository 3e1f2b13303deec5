"""Held-out masked-language-model figures: the one definition, used during training and by `evaluate mlm`.

Which tokens are hidden is a function of the document's ids, the position in it and a seed, and of nothing else: not of
the model, its training, the length of sequences, the batches or the order of documents. So two runs with one tokenizer
are asked the very same questions. `rate` (15 %) of the tokens are asked for, by a hash per position, never a special
one. All of them become [MASK]: with the 80/10/10 of training a tenth could be copied from the input, and a model
trained on [MASK] alone could not be compared with one that was not. Documents are cut into pieces of even length; who
asks for fewer tokens than there are has pieces from all over the split, so that a part is as hard as the whole.

`loss` is the mean cross entropy in nats of the hidden tokens, `accuracy` the share whose best guess is right.
`bits_per_byte` = loss / ln 2 · tokens / bytes, where tokens and UTF-8 bytes are those of the whole split: the bits it
takes to guess a hidden token, over the bytes of text a token stands for. So tokenizers with long and short tokens can
be compared, and one that drops spaces is not favoured: spaces are bytes of the text.

Shapes: T tokens, M hidden ones, V vocabulary.
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

RATE = 0.15
BATCH_TOKENS = 8192
Ids = npt.NDArray[np.int64]


def heldout_mask(
    ids: Ids, special: npt.NDArray[np.bool_], mask_rate: float = RATE, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """(n,) bool: which tokens of a document are asked for."""
    key = derive_seed(seed, "heldout", ids.astype("<u4").tobytes().hex())
    dice = hash_under_key(np.arange(len(ids)), key)
    return (dice < np.uint64(mask_rate * 2.0**64)) & ~special[ids]


def heldout_batches(
    split: TokenSplit,
    vocabulary: Vocabulary,
    max_length: int,
    tokens: int | None = None,
    mask_rate: float = RATE,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Batch]:
    """Packed batches with `extra["masked_positions"]` (M,) and `extra["labels"]` (M,), documents in a fixed shuffled order, and of
    their pieces evenly as many as come to about `tokens` tokens, at least one (None: all of the split). Sequences have
    at most `length` tokens, [CLS] and [SEP] included."""
    special = vocabulary.special.numpy()
    held: list[tuple[Ids, npt.NDArray[np.bool_]]] = []
    size = 0
    for ids, asked in _pieces(split, special, max_length, tokens, mask_rate, seed):
        if held and size + len(ids) > batch_tokens:
            yield _batch(held, vocabulary.mask_id)
            held, size = [], 0
        held.append((ids, asked))
        size += len(ids)
    if held:
        yield _batch(held, vocabulary.mask_id)


def score_mlm(
    model: Model,
    batches: Iterable[Batch],
    tokens_per_byte: float,
    sum_over_ranks: Callable[[Tensor], None] | None = None,
    read: Callable[[Model, Batch], Output] | None = None,
) -> dict[str, float]:
    """`loss`, `accuracy`, `bits_per_byte`, `perplexity`, and over how many `tokens` and `predicted`.

    `batches` are from `questions`; each rank gives its own and `sum_over_ranks` adds up. `tokens_per_byte` is
    `split.tokens / split.bytes`. `read`: how a batch goes through the model (None: as it is). The model is left in the
    mode it was in. Raises `EmptyInput` if nothing was asked.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for each in batches:
                batch = each if device.type == "cpu" else each.to(device)
                sums += _answer(model, batch, model(batch) if read is None else read(model, batch))
    finally:
        model.train(training)
    if sum_over_ranks is not None:
        sum_over_ranks(sums)
    total, right, predicted, tokens = sums.tolist()
    if not predicted:
        raise EmptyInput("There is nothing to score on: the held-out split holds no token that could be hidden.")
    loss = total / predicted
    return {
        "loss": loss,
        "accuracy": right / predicted,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "perplexity": math.exp(min(loss, 100.0)),
        "tokens": tokens,
        "predicted": predicted,
    }


def _answer(model: Model, batch: Batch, output: Output) -> Tensor:
    """(4,) float64: Σ cross entropy, right guesses, questions, tokens."""
    features = model.mlm_head.features(output.hidden[batch.extra["masked_positions"]])
    weight, bias = model.mlm_head.decoder(model.encoder)
    found = masked_cross_entropy(features, weight, bias, batch.extra["labels"])
    counts = torch.tensor([float(found.nll.numel()), float(batch.tokens)], dtype=torch.float64, device=weight.device)
    return torch.cat([found.nll.double().sum()[None], found.correct.double().sum()[None], counts])


def _pieces(
    split: TokenSplit, special: npt.NDArray[np.bool_], length: int, tokens: int | None, rate: float, seed: int
) -> Iterator[tuple[Ids, npt.NDArray[np.bool_]]]:
    order = permute(np.arange(len(split)), len(split), derive_seed(seed, "heldout order"))
    first, last = np.array([split.special_tokens.cls_id]), np.array([split.special_tokens.sep_id])
    none = np.zeros(1, np.bool_)
    counts = -(-split.lengths[order] // (length - 2))
    ends = np.cumsum(counts)
    total = max(split.tokens + 2 * int(counts.sum()), 1)
    wanted = total if tokens is None else min(tokens, total)
    before, after = (-(-pieces * wanted // total) for pieces in (ends - counts, ends))  # So many of them are taken.
    for place in np.flatnonzero(after > before).tolist():
        ids = split[int(order[place])].astype(np.int64)
        asked = heldout_mask(ids, special, rate, seed)
        edges = np.linspace(0, len(ids), int(counts[place]) + 1).astype(int)
        numbers = np.arange(ends[place] - counts[place], ends[place])
        taken = np.flatnonzero(numbers * wanted % total < wanted)
        for begin, end in zip(edges[taken].tolist(), edges[taken + 1].tolist(), strict=True):
            piece = np.concatenate([first, ids[begin:end], last])
            yield piece, np.concatenate([none, asked[begin:end], none])


def _batch(held: list[tuple[Ids, npt.NDArray[np.bool_]]], mask_id: int) -> Batch:
    held = sorted(held, key=lambda piece: len(piece[0]))
    lengths = [len(ids) for ids, _ in held]
    ids = torch.from_numpy(np.concatenate([ids for ids, _ in held]))
    rows = torch.from_numpy(np.flatnonzero(np.concatenate([asked for _, asked in held])))
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    masked = ids.clone()
    masked[rows] = mask_id
    return Batch(masked, cu_seqlens, max(lengths), None, {"masked_positions": rows, "labels": ids[rows]})
