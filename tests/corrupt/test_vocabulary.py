"""What a corruption takes from a real tokenizer."""

from __future__ import annotations

import tokenizers
import torch

from encodery.corrupt import Vocabulary
from encodery.corrupt.word import WholeWordMasking
from encodery.tokens.tokenizer import Tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "house", "##s"]


def tokenizer() -> Tokenizer:
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(PIECES[:5])
    return Tokenizer(inner)


def test_specials_padding_and_word_starts_come_from_the_tokenizer() -> None:
    words = Vocabulary.of(tokenizer())
    assert words.mask_id == 4
    assert words.special.nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4]
    assert words.special.numel() == words.word_start.numel() == 64
    assert words.replacements.tolist() == [5, 6, 7, 8, 9]
    assert words.word_start[5:10].tolist() == [True, False, False, True, False]


def test_words_of_a_real_text_are_hidden_whole() -> None:
    source = tokenizer()
    ids = torch.tensor([2, *source.encode_batch(["unbelievable houses"])[0].tolist(), 3])
    assert ids.tolist() == [2, 5, 6, 7, 8, 9, 3]
    seen = set()
    for seed in range(40):
        cu = torch.tensor([0, 7], dtype=torch.int32)
        chance = torch.Generator().manual_seed(seed)
        seen.add(tuple(WholeWordMasking().apply(ids, cu, Vocabulary.of(source), chance, 0.0).masked_positions.tolist()))
    assert seen == {(), (1, 2, 3), (4, 5)}
