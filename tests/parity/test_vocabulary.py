"""Tokenizers made from older files against transformers: vocab.txt, and vocab.json with merges.txt."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import ByteLevelBPETokenizer

from encodery.model.vocabulary import read_tokenizer

ODD = [
    "",
    " ",
    "Ünïcödé naïve 東京 日本",
    "a  b\t\nc",
    "don't [MASK] <mask> e-mail@host",
    "x" * 300,
    "\u200b\x00 ok",
    "Été été",
]


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt(lower: bool, minilm: Path, texts: list[str], transformers: ModuleType, tmp_path: Path) -> None:
    shutil.copy(minilm / "vocab.txt", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=lower)
    ours = read_tokenizer(tmp_path).encode_batch(texts + ODD, add_special_tokens=True, parse_special_tokens=True)
    for text, ids in zip(texts + ODD, ours, strict=True):
        assert ids.tolist() == theirs(text)["input_ids"], text


def test_vocab_txt_gives_the_ids_of_tokenizer_json(minilm: Path, texts: list[str], tmp_path: Path) -> None:
    shutil.copy(minilm / "vocab.txt", tmp_path)
    made, original = read_tokenizer(tmp_path), read_tokenizer(minilm)
    for a, b in zip(
        made.encode_batch(texts, add_special_tokens=True),
        original.encode_batch(texts, add_special_tokens=True),
        strict=True,
    ):
        assert a.tolist() == b.tolist()
    assert made.roles == original.roles


@pytest.mark.parametrize("prefix", [True, False])
def test_vocab_json_and_merges(prefix: bool, texts: list[str], transformers: ModuleType, tmp_path: Path) -> None:
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(texts, vocab_size=500, special_tokens=special, show_progress=False)
    trained.save_model(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_prefix_space": prefix}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path, add_prefix_space=prefix)
    made = read_tokenizer(tmp_path)
    # The published tokenizer.json lets <mask> take the space before it; the stock class alone does not say so.
    assert made.encode("a <mask>", parse_special_tokens=True).tolist()[-2:] == [*made.encode("a").tolist()[-1:], 4]
    inputs = [text.replace(" <mask>", "<mask>") for text in texts + ODD]
    for text, ids in zip(
        inputs, made.encode_batch(inputs, add_special_tokens=True, parse_special_tokens=True), strict=True
    ):
        assert ids.tolist() == theirs(text)["input_ids"], text
    assert (made.pad_id, made.cls_id, made.sep_id, made.mask_id) == (1, 0, 2, 4)
