"""A trained tokenizer: text to ids and back, and what other rooms need to know of its vocabulary.

It wraps `tokenizers`; its folder (`tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`) is what
`transformers.AutoTokenizer` loads. Only the size of the vocabulary is padded to a multiple of 64: ids from `used_size`
to `vocab_size` exist in a model's embeddings and in no text, as in stock models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers.processors import TemplateProcessing

from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError, InputError
from encodery.tokens.word_starts import word_starts

MULTIPLE = 64
ROLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # role: names in the configuration, names tried in the vocabulary
    "pad": (("pad_token",), ("[PAD]", "<pad>", "<|padding|>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
    "cls": (("cls_token", "bos_token"), ("[CLS]", "<s>", "<cls>")),
    "sep": (("sep_token", "eos_token"), ("[SEP]", "</s>", "<sep>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
}
MAX_PART_CHARACTERS = 1 << 18
TEXTS_AT_ONCE = 4096  # texts
UNKNOWN_TEXT = "\ue000"  # A character of the private use area, which no vocabulary is expected to have.
BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])")

Ids = npt.NDArray[np.uint32]


class Tokenizer:
    """Text to ids. `Tokenizer.load(folder)` opens one; `backend` is a `tokenizers.Tokenizer`, `config` what
    `transformers` stores beside it."""

    def __init__(
        self, backend: tokenizers.Tokenizer, config: dict[str, Any] | None = None, vocab_size: int | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.config = dict(config or {})
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.used_size = max(vocabulary.values()) + 1
        self.vocab_size = vocab_size or -(-self.used_size // MULTIPLE) * MULTIPLE
        self.roles = {role: _role(role, self.config, vocabulary) for role in ROLES}
        self._plain = tokenizers.Tokenizer.from_str(backend.to_str())
        self._plain.encode_special_tokens = True

    @classmethod
    def load(cls, folder: str | Path, vocab_size: int | None = None) -> Tokenizer:
        """Load the tokenizer of a folder, or of its subfolder `tokenizer/`.

        `vocab_size`: the number of rows of the model's embeddings, if it is not the next multiple of 64. Raises
        `ArtifactError` that names the file which is missing or damaged.
        """
        path = _file(Path(folder))
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise ArtifactError(f"{path}: damaged: {error}") from error
        _check_unknown(backend, path)
        config: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            file = path.parent / name
            if file.is_file():
                try:
                    config |= json.loads(file.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise ArtifactError(f"{file}: damaged: {error}") from error
        return cls(backend, config, vocab_size)

    def save(self, folder: str | Path, max_length: int | None = None, token_type_ids: bool | None = None) -> None:
        """Write the files into `folder`. Raises `DiskFull`.

        Args:
            max_length: the longest sequence that the model accepts.
            token_type_ids: whether the model expects `token_type_ids`.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": name for role, name in self.roles.items() if name is not None}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= self.config | names
        if max_length is not None:
            config["model_max_length"] = max_length
        if token_type_ids is not None:
            kinds = ["token_type_ids"] if token_type_ids else []
            config["model_input_names"] = ["input_ids", *kinds, "attention_mask"]
        atomic_write(target / "tokenizer.json", self.backend.to_str(pretty=True))
        atomic_write(target / "tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False))
        atomic_write(target / "special_tokens_map.json", json.dumps(names, indent=1, ensure_ascii=False))

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = False, parse_special_tokens: bool = False
    ) -> list[Ids]:
        """Return the ids of each text, encoded on all threads.

        Args:
            add_special_tokens: put [CLS] and [SEP] around each text.
            parse_special_tokens: a special token written in a text, such as "[MASK]", is that token.
        """
        return [
            ids
            for start in range(0, len(texts), TEXTS_AT_ONCE)
            for ids in self._encode_some(texts[start : start + TEXTS_AT_ONCE], add_special_tokens, parse_special_tokens)
        ]

    def _encode_some(self, texts: Sequence[str], specials: bool, markup: bool) -> list[Ids]:
        """See `encode_batch`, which limits the texts of a call: the library keeps far more of each than its ids."""
        backend = self.backend if markup else self._plain
        parts = [list(_between_words(text)) for text in texts]
        flat = [part for text_parts in parts for part in text_parts]
        whole = len(flat) == len(texts)
        batch = backend.encode_batch_fast(flat, add_special_tokens=specials and whole)
        ids = [np.array(encoding.ids, dtype=np.uint32) for encoding in batch]
        if whole:
            return ids
        first, last = ([self.cls_id], [self.sep_id]) if specials else ([], [])
        rest = iter(ids)
        return [
            np.concatenate([first, *(next(rest) for _ in text_parts), last]).astype(np.uint32) for text_parts in parts
        ]

    def encode(self, text: str, add_special_tokens: bool = False, parse_special_tokens: bool = False) -> Ids:
        """Return the ids of one text; see `encode_batch`."""
        return self.encode_batch([text], add_special_tokens, parse_special_tokens)[0]

    def encode_with_offsets(
        self, text: str, add_special_tokens: bool = False, parse_special_tokens: bool = False
    ) -> tuple[Ids, npt.NDArray[np.int32]]:
        """Return ids (n,) and the characters [begin, end) of `text` of each (n, 2) int32; added special tokens have (0,
        0)."""
        encoding = (self.backend if parse_special_tokens else self._plain).encode(
            text, add_special_tokens=add_special_tokens
        )
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.uint32), offsets

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids; ids that only pad the vocabulary are skipped."""
        return str(
            self.backend.decode([int(i) for i in ids if i < self.used_size], skip_special_tokens=skip_special_tokens)
        )

    def piece(self, number: int) -> str:
        """Return the piece of an id, as it is written in the vocabulary."""
        return self.pieces[number] if number < self.used_size else ""

    @cached_property
    def pieces(self) -> list[str]:
        """(used_size) all pieces in order of id; an empty string for an id without one."""
        pieces = [""] * self.used_size
        for piece, number in self.backend.get_vocab(with_added_tokens=True).items():
            pieces[number] = piece
        return pieces

    def _id(self, role: str) -> int:
        name = self.roles[role]
        number = None if name is None else self.backend.token_to_id(name)
        if number is None:
            raise InputError(f"This tokenizer has no {role} token, which is required here.")
        return int(number)

    @property
    def pad_id(self) -> int:
        """The id of the padding token."""
        return self._id("pad")

    @property
    def unk_id(self) -> int:
        """The id of what cannot be spelled; that of padding for tokenizers that can spell everything."""
        return self._id("unk" if self.roles["unk"] is not None else "pad")

    @property
    def cls_id(self) -> int:
        """The id of the token that begins a sequence."""
        return self._id("cls")

    @property
    def sep_id(self) -> int:
        """The id of the token that ends a sequence."""
        return self._id("sep")

    @property
    def mask_id(self) -> int:
        """The id of the token that masks another."""
        return self._id("mask")

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        added = {number for number, token in self.backend.get_added_tokens_decoder().items() if token.special}
        named = {self._id(role) for role, name in self.roles.items() if name is not None}
        return frozenset(added | named)

    @cached_property
    def word_start(self) -> npt.NDArray[np.bool_]:
        """(vocab_size,) bool: whether a piece begins a word."""
        starts = np.ones(max(self.vocab_size, self.used_size), np.bool_)
        starts[: self.used_size] = word_starts(self.pieces, self.special_ids, json.loads(self.backend.to_str()))
        return starts[: self.vocab_size]

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that differ if any text could get other ids."""
        spec = json.loads(self.backend.to_str())
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]

    def set_template(self) -> None:
        """Make `add_special_tokens` put [CLS] … [SEP] around a text, and [CLS] … [SEP] … [SEP] around a pair."""
        first, last = self.roles["cls"], self.roles["sep"]
        self.backend.post_processor = TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(first, self.cls_id), (last, self.sep_id)],
        )
        self._plain.post_processor = self.backend.post_processor


def _check_unknown(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Raise `ArtifactError` for a tokenizer that fails at the first character that is not in its vocabulary."""
    try:
        backend.encode(UNKNOWN_TEXT, add_special_tokens=False)
    except Exception as error:
        raise ArtifactError(
            f"{path}: a text with a character outside the vocabulary cannot be encoded: {error}. Its 'model' must name "
            "the unknown token: 'unk_id', the position in 'vocab' (Unigram), or 'unk_token' (WordPiece, WordLevel)."
        ) from error


def _file(folder: Path) -> Path:
    for candidate in (folder, folder / "tokenizer"):
        if (candidate / "tokenizer.json").is_file():
            return candidate / "tokenizer.json"
    raise ArtifactError(f"{folder}: has no tokenizer.json; a folder with a tokenizer is needed.")


def _role(role: str, config: dict[str, Any], vocabulary: dict[str, int]) -> str | None:
    keys, usual = ROLES[role]
    for key in keys:
        named = config.get(key)
        name = named.get("content") if isinstance(named, dict) else named
        if isinstance(name, str) and name in vocabulary:
            return name
    return next((name for name in usual if name in vocabulary), None)


def _between_words(text: str) -> Iterable[str]:
    """Divide a long text where tokenizers of every kind begin a new word, so that its ids stay the same; this bounds
    memory.

    A text without such a place is divided anyway.
    """
    begin = 0
    while len(text) - begin > MAX_PART_CHARACTERS:
        place = BETWEEN_WORDS.search(text, begin + MAX_PART_CHARACTERS // 2, begin + MAX_PART_CHARACTERS)
        end = place.start() if place else begin + MAX_PART_CHARACTERS
        yield text[begin:end]
        begin = end
    yield text[begin:]
