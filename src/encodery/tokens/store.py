"""A token store: memory-mapped token ids with an O(1) index of documents. Artifact kind `tokens`.

Layout of the folder: for each split, `<split>/00000.u16` (or `.u32`), … hold the ids of whole documents one after
another, little-endian, without special tokens; `<split>/offsets.npy` (D+1,) int64 says where each document begins in
the ids of the split. In a store that was encoded with `group_by`, `<split>/groups.npy` (D,) int64 has the group of each
document; documents of one group are related. `tokenizer/` is a copy of the tokenizer. The manifest's settings hold
`dtype` and the ids of the special tokens, its metrics the documents, tokens, unknown tokens and UTF-8 bytes of each
split. Opening checks the size of every file; `verify` checks every SHA-256. Both name the file at fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError
from encodery.tokens.related import DocumentGroups

if TYPE_CHECKING:
    from encodery.tokens.tokenizer import Tokenizer

KIND = "tokens"
SPLITS = ("train", "heldout")
SUFFIX = {"uint16": ".u16", "uint32": ".u32"}
OFFSETS, GROUPS = "offsets.npy", "groups.npy"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, and the (padded) size of the vocabulary that a store was encoded with."""

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    vocab_size: int


class TokenSplit:
    """The documents of one split. `shards` hold ids; `starts` (S+1,) their first positions in the ids of the split."""

    def __init__(
        self, folder: Path, dtype: str, metrics: dict[str, Any], special_tokens: SpecialTokens, identity: str
    ) -> None:
        self.name, self.folder = folder.name, folder
        self.special_tokens = special_tokens
        self.identity = f"{identity}/{folder.name}"
        self.documents, self.tokens = int(metrics["documents"]), int(metrics["tokens"])
        self.bytes, self.unknown = int(metrics["bytes"]), int(metrics["unknown"])
        paths = sorted(folder.glob(f"*{SUFFIX[dtype]}"))
        kind = np.dtype(dtype).newbyteorder("<")
        self.shards = [np.asarray(np.memmap(p, dtype=kind, mode="r")) for p in paths if p.stat().st_size]
        self.starts = np.concatenate([[0], np.cumsum([len(s) for s in self.shards], dtype=np.int64)]).astype(np.int64)
        if self.documents:
            self.offsets = np.asarray(np.load(folder / OFFSETS, mmap_mode="r", allow_pickle=False))
        else:
            self.offsets = np.zeros(1, np.int64)
        if len(self.offsets) != self.documents + 1 or not self.offsets[-1] == self.starts[-1] == self.tokens:
            raise ArtifactError(
                f"{folder}: {self.documents} documents of {self.tokens} tokens in the manifest, "
                f"{len(self.offsets) - 1} of {int(self.offsets[-1])} in {OFFSETS}, {int(self.starts[-1])} in shards."
            )

    def __len__(self) -> int:
        return self.documents

    def __getitem__(self, number: int) -> npt.NDArray[np.integer[Any]]:
        """Return the ids of a document, a view of the mapped file. Raises `IndexError` outside -D..D-1."""
        if not -self.documents <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents}")
        number %= self.documents
        return self.read(int(self.offsets[number]), int(self.offsets[number + 1] - self.offsets[number]))

    def __iter__(self) -> Iterator[npt.NDArray[np.integer[Any]]]:
        return (self[number] for number in range(self.documents))

    def read(self, start: int, length: int) -> npt.NDArray[np.integer[Any]]:
        """Return `length` ids from position `start` of the split, a view if they lie in one shard."""
        if not length:
            return np.zeros(0, self.shards[0].dtype if self.shards else np.uint16)
        shard = int(self.starts.searchsorted(start, "right")) - 1
        begin = start - int(self.starts[shard])
        ids = self.shards[shard][begin : begin + length]
        if len(ids) == length or shard + 1 == len(self.shards):
            return ids
        return np.concatenate([ids, self.read(start + len(ids), length - len(ids))])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(D,) int64: the number of tokens of each document."""
        return np.diff(self.offsets)

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """(D,) int64: the group of each document. Raises `InputError` for a store without groups, `ArtifactError` for
        one whose groups are not those of its documents."""
        path = self.folder / GROUPS
        if not path.is_file():
            raise InputError(
                f"{self.folder.parent}: does not say which documents are related. Encode the corpus again: "
                "`encodery tokens encode CORPUS --group-by KEY ...`, KEY being a field of the documents' metadata."
            )
        groups = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        if groups.shape != (self.documents,):
            raise ArtifactError(f"{path}: has groups of {len(groups)} documents, not of {self.documents}.")
        return groups

    @cached_property
    def related(self) -> DocumentGroups:
        """The documents of each group. Raises as `groups` does."""
        return DocumentGroups(self.groups)


class TokenStore:
    """An encoded corpus on disk."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.path = artifact.path
        self.special_tokens = SpecialTokens(**artifact.manifest.settings["special_tokens"])
        self.dtype: str = artifact.manifest.settings["dtype"]
        self.fingerprint = artifact.manifest.fingerprint
        self._splits: dict[str, TokenSplit] = {}

    @classmethod
    def open(cls, folder: str | Path, verify: bool = False) -> TokenStore:
        """Open a token store. `verify` reads every file and compares its SHA-256.

        Raises `ArtifactError` that names the folder or the damaged shard.
        """
        artifact = Artifact.open(folder, KIND)
        if verify:
            artifact.verify()
        try:
            return cls(artifact)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{folder}: its manifest lacks {error}.") from error

    def split(self, name: str) -> TokenSplit:
        """Return one split. Raises `InputError` for a name other than `train` and `heldout`."""
        if name not in SPLITS:
            raise InputError(f"There is no split '{name}'. Splits are {' and '.join(SPLITS)}.")
        if name not in self._splits:
            metrics = self.artifact.manifest.metrics[name]
            self._splits[name] = TokenSplit(
                self.path / name, self.dtype, metrics, self.special_tokens, self.fingerprint
            )
        return self._splits[name]

    @property
    def train(self) -> TokenSplit:
        """The training split; `len`, `[i]`, `lengths`, `tokens` and `bytes` of the store refer to it."""
        return self.split("train")

    @property
    def heldout(self) -> TokenSplit:
        """The split that is kept for evaluation."""
        return self.split("heldout")

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, number: int) -> npt.NDArray[np.integer[Any]]:
        return self.train[number]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(D,) int64: the number of tokens of each training document."""
        return self.train.lengths

    @property
    def tokens(self) -> int:
        """The number of tokens of the training split."""
        return self.train.tokens

    @property
    def bytes(self) -> int:
        """The UTF-8 bytes of the text of the training split."""
        return self.train.bytes

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the store was encoded with."""
        from encodery.tokens.tokenizer import Tokenizer

        return Tokenizer.load(self.path / "tokenizer")
