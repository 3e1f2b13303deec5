"""Pools of tokenised texts, windows of long texts, noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError
from encodery.embed.noise import delete_tokens, mask_span
from encodery.embed.text_pool import TextPool, average_windows_torch
from encodery.encoders.text_windows import TextWindows
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import split_into_windows

LEFT, RIGHT = ["abc", "abc", "hello", ""], ["de", "abc", "fghij", "de"]


def test_each_text_is_kept_once_and_known_again_behind_a_prompt(tokenizer: Tokenizer) -> None:
    pool, numbers = TextPool.from_columns([LEFT, RIGHT], ["q ", ""], tokenizer, 10, "error")
    assert numbers.shape == (4, 2)
    assert len(pool.texts) == 6, "abc with and without the prompt"
    assert [[pool.texts[n] for n in row] for row in numbers] == [list(pair) for pair in zip(LEFT, RIGHT, strict=True)]
    assert tokenizer.decode(pool.sequence(int(numbers[2, 0]))).replace(" ", "") == "qhello"
    assert pool.text_ids[numbers[0, 0]] == pool.text_ids[numbers[1, 1]]
    assert len(np.unique(pool.text_ids)) == 5
    assert pool.lengths[numbers].tolist() == [[6, 4], [6, 5], [8, 7], [3, 4]]
    assert (pool.dropped, pool.num_truncated) == (0, 0)


def test_batches_hold_the_texts_longest_first_and_say_where(tokenizer: Tokenizer) -> None:
    pool, numbers = TextPool.from_columns([LEFT, RIGHT], ["", ""], tokenizer, 10, "error")
    indices_of_batch = numbers.T.reshape(-1)
    batch, place = pool.batch(indices_of_batch)
    ends = batch.cu_seqlens.tolist()
    assert (np.diff(batch.cu_seqlens.diff().numpy()) <= 0).all()
    for number, at in zip(indices_of_batch, place.tolist(), strict=True):
        ids = batch.ids[ends[at] : ends[at + 1]].tolist()
        assert ids == [tokenizer.cls_id, *pool.sequence(int(number)).tolist(), tokenizer.sep_id]


def test_long_texts_are_refused_or_truncated_and_counted(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="has 5 tokens, the model takes 3"):
        TextPool.from_columns([LEFT], [""], tokenizer, 3, "error")
    for policy, kept in (("right", "hel"), ("left", "llo")):
        pool, numbers = TextPool.from_columns([LEFT], [""], tokenizer, 3, policy)
        assert tokenizer.decode(pool.sequence(int(numbers[2, 0]))).replace(" ", "") == kept
        assert (pool.dropped, pool.num_truncated) == (2, 1)


def test_long_texts_are_read_in_the_windows_of_use(tokenizer: Tokenizer) -> None:
    pool, numbers = TextPool.from_columns([LEFT, RIGHT], ["q ", ""], tokenizer, 3, "chunk")
    whole, _ = TextPool.from_columns([LEFT, RIGHT], ["q ", ""], tokenizer, 100, "error")
    assert pool.has_windows
    assert not whole.has_windows
    assert (pool.dropped, pool.num_truncated) == (0, 0)
    np.testing.assert_array_equal(pool.ids, whole.ids)
    np.testing.assert_array_equal(pool.ends, whole.ends)
    assert pool.num_windows[numbers].tolist() == [[2, 1], [2, 1], [2, 2], [1, 1]]
    assert pool.lengths[numbers].tolist() == [[8, 4], [8, 5], [10, 9], [3, 4]]
    indices_of_batch = np.array([numbers[2, 1], numbers[3, 0], numbers[0, 0]])
    batch, place = pool.batch(indices_of_batch)
    owner = pool.window_owner(indices_of_batch).tolist()
    assert owner == [0, 0, 1, 2, 2]
    assert batch.tokens == pool.lengths[indices_of_batch].sum()
    assert int(batch.cu_seqlens.diff().max()) <= 5
    ends = batch.cu_seqlens.tolist()
    expected, _ = split_into_windows([pool.sequence(int(number)) for number in indices_of_batch], 3, "chunk")
    for window, at, text in zip(expected, place.tolist(), owner, strict=True):
        ids = batch.ids[ends[at] : ends[at + 1]].tolist()
        assert ids == [tokenizer.cls_id, *window.ids.tolist(), tokenizer.sep_id]
        assert text == window.text


def test_vectors_of_windows_make_those_of_texts_as_in_use() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    owner, lengths = np.array([0, 0, 1, 2, 2, 2, 3]), np.array([5, 4, 3, 9, 9, 8, 2])
    tensor = torch.from_numpy(vectors).requires_grad_()
    averaged = average_windows_torch(tensor, torch.from_numpy(lengths), torch.from_numpy(owner), 4)
    np.testing.assert_allclose(
        averaged.detach().numpy(), TextWindows([], owner, lengths, np.zeros(4)).average(vectors), atol=1e-6
    )
    averaged[2].sum().backward()
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad[:, 0].numpy(), [0, 0, 0, 9 / 26, 9 / 26, 8 / 26, 0], atol=1e-6)
    layers = average_windows_torch(
        tensor.view(7, 1, 5).expand(7, 2, 5), torch.from_numpy(lengths), torch.from_numpy(owner), 4
    )
    torch.testing.assert_close(layers[:, 1], averaged)


def test_noise() -> None:
    ids = np.arange(10, dtype=np.uint32)
    draw = np.random.default_rng(0)
    for _ in range(20):
        masked = mask_span(ids, 99, 4, draw)
        assert len(masked) == 7
        at = int(np.flatnonzero(masked == 99)[0])
        assert masked.tolist() == [*range(at), 99, *range(at + 4, 10)]
    assert mask_span(ids[:4], 99, 4, draw).tolist() == [0, 1, 2, 3]
    lengths = [len(delete_tokens(ids, 0.6, draw)) for _ in range(500)]
    assert np.mean(lengths) == pytest.approx(4, abs=0.4)
    assert min(lengths) >= 1
    assert len(delete_tokens(ids, 1.0, draw)) == 1
    assert len(delete_tokens(ids[:0], 0.6, draw)) == 0
