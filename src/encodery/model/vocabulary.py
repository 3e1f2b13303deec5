"""Reads tokenizers of other libraries: tokenizer.json, or the vocabulary files that older checkpoints have instead.

vocab.txt is the WordPiece of BERT (arXiv:1810.04805), vocab.json with merges.txt the byte-level BPE of RoBERTa
(arXiv:1907.11692).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from encodery.base.errors import ArtifactError
from encodery.model.checkpoint import read_json
from encodery.tokens.tokenizer import Tokenizer

TOKENIZER_SOURCES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model")
BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
ROBERTA = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}


def read_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """Read the tokenizer of a folder. Raises `ArtifactError` naming what is missing.

    `vocab_size` is that of the model, which may be larger than the tokenizer's.
    """
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder, vocab_size)
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        config |= read_json(folder / name) if (folder / name).is_file() else {}
    if (folder / "vocab.txt").is_file():
        return Tokenizer(*_wordpiece(folder / "vocab.txt", config), vocab_size)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return Tokenizer(*_byte_bpe(folder, config), vocab_size)
    raise ArtifactError(
        f"{folder}: has neither tokenizer.json nor vocabulary files of a supported kind. To make tokenizer.json with "
        f"transformers: AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
    )


def _wordpiece(path: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a vocab.txt, and its special tokens by role."""
    lines = path.read_text(encoding="utf-8").split("\n")
    pieces = {piece.rstrip("\r"): number for number, piece in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    special = _special(config, BERT)
    missing = sorted(name for role, name in special.items() if role != "mask" and name not in pieces)
    if missing:
        raise ArtifactError(f"{path}: has no entry '{missing[0]}', which is required.")
    backend = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=special["unk"], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([AddedToken(name, special=True) for name in special.values() if name in pieces])
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, pieces[cls]), (sep, pieces[sep])],
    )
    return backend, {f"{role}_token": name for role, name in special.items() if name in pieces}


def _byte_bpe(folder: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a vocab.json with merges.txt, and its special tokens by role."""
    special = _special(config, ROBERTA)
    prefix = bool(config.get("add_prefix_space", False))
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:
        raise ArtifactError(f"{folder}: vocab.json or merges.txt is damaged: {error}") from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    pieces = backend.get_vocab()
    missing = sorted(name for name in special.values() if name not in pieces)
    if missing:
        raise ArtifactError(f"{folder / 'vocab.json'}: has no entry '{missing[0]}', which is required.")
    added = {name: AddedToken(name, special=True, lstrip=role == "mask") for role, name in special.items()}
    backend.add_special_tokens(list(added.values()))
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.RobertaProcessing(
        (sep, pieces[sep]), (cls, pieces[cls]), trim_offsets=True, add_prefix_space=prefix
    )
    return backend, {f"{role}_token": name for role, name in special.items()}


def _special(config: dict[str, Any], defaults: dict[str, str]) -> dict[str, str]:
    """Role → special token, as configured or by default."""
    tokens = {}
    for role, default in defaults.items():
        value = config.get(f"{role}_token", default)
        tokens[role] = str(value["content"] if isinstance(value, dict) else value or default)
    return tokens
