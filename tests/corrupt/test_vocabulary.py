"""The vocabulary of a corruption, from a real tokenizer."""

from __future__ import annotations

import tokenizers
import torch

from encodery.corrupt import Vocabulary
from encodery.corrupt.word import WholeWordMasking
from encodery.tokens.tokenizer import Tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "house", "##s"]


def tokenizer() -> Tokenizer:
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(PIECES[:5])
    return Tokenizer(backend)


def test_special_ids_padding_and_word_starts_come_from_the_tokenizer() -> None:
    vocabulary = Vocabulary.of(tokenizer())
    assert vocabulary.mask_id == 4
    assert vocabulary.special.nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4]
    assert vocabulary.special.numel() == vocabulary.word_start.numel() == 64
    assert vocabulary.replacements.tolist() == [5, 6, 7, 8, 9]
    assert vocabulary.word_start[5:10].tolist() == [True, False, False, True, False]


def test_words_of_a_text_are_masked_as_a_whole() -> None:
    source = tokenizer()
    ids = torch.tensor([2, *source.encode_batch(["unbelievable houses"])[0].tolist(), 3])
    assert ids.tolist() == [2, 5, 6, 7, 8, 9, 3]
    seen = set()
    for seed in range(40):
        cu = torch.tensor([0, 7], dtype=torch.int32)
        chance = torch.Generator().manual_seed(seed)
        seen.add(tuple(WholeWordMasking().apply(ids, cu, Vocabulary.of(source), chance, 0.0).masked_positions.tolist()))
    assert seen == {(), (1, 2, 3), (4, 5)}
