"""Tokenizers of foreign folders: tokenizer.json, or the vocabulary files that older checkpoints have in its place.

vocab.txt is BERT's WordPiece (arXiv:1810.04805), vocab.json with merges.txt RoBERTa's byte-level BPE
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
    """The tokenizer of a folder; `vocab` rows are in the model's tables. Raises `ArtifactError` naming what lacks."""
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
        f"{folder}: has neither tokenizer.json nor vocabulary files that can be read here. To make tokenizer.json "
        f"where transformers is installed: AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')"
    )


def _wordpiece(path: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    pieces = {piece.rstrip("\r"): number for number, piece in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    special = _special(config, BERT)
    absent = sorted(name for role, name in special.items() if role != "mask" and name not in pieces)
    if absent:
        raise ArtifactError(f"{path}: has no piece '{absent[0]}', which is needed.")
    inner = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=special["unk"], max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.add_special_tokens([AddedToken(name, special=True) for name in special.values() if name in pieces])
    cls, sep = special["cls"], special["sep"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, pieces[cls]), (sep, pieces[sep])],
    )
    return inner, {f"{role}_token": name for role, name in special.items() if name in pieces}


def _byte_bpe(folder: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    special = _special(config, ROBERTA)
    prefix = bool(config.get("add_prefix_space", False))
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:
        raise ArtifactError(f"{folder}: vocab.json or merges.txt is damaged: {error}") from error
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    pieces = inner.get_vocab()
    absent = sorted(name for name in special.values() if name not in pieces)
    if absent:
        raise ArtifactError(f"{folder / 'vocab.json'}: has no piece '{absent[0]}', which is needed.")
    marks = {name: AddedToken(name, special=True, lstrip=role == "mask") for role, name in special.items()}
    inner.add_special_tokens(list(marks.values()))
    cls, sep = special["cls"], special["sep"]
    inner.post_processor = processors.RobertaProcessing(
        (sep, pieces[sep]), (cls, pieces[cls]), trim_offsets=True, add_prefix_space=prefix
    )
    return inner, {f"{role}_token": name for role, name in special.items()}


def _special(config: dict[str, Any], usual: dict[str, str]) -> dict[str, str]:
    """Role to token, as configured or as usual."""
    found = {}
    for role, name in usual.items():
        told = config.get(f"{role}_token", name)
        found[role] = str(told["content"] if isinstance(told, dict) else told or name)
    return found
