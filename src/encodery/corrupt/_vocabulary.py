"""What a corruption needs to know of a tokenizer's vocabulary, as tensors. V vocabulary, R possible replacements."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from encodery.base.errors import SettingsError

if TYPE_CHECKING:
    from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`special` (V,) bool: ids that are never masked and never used as a replacement. `used_size`: ids from here on
    only pad the vocabulary. `word_start` (V,) bool: ids that begin a word.

    Raises `SettingsError` if the sizes do not agree.
    """

    mask_id: int
    special: Tensor
    used_size: int
    word_start: Tensor

    def __post_init__(self) -> None:
        size = self.special.numel()
        if self.word_start.numel() != size:
            raise SettingsError(f"vocabulary: {size} special flags but {self.word_start.numel()} word starts.")
        if not 0 <= self.mask_id < size or not 0 < self.used_size <= size:
            raise SettingsError(
                f"vocabulary: mask id {self.mask_id} and used size {self.used_size} must lie within {size} ids."
            )

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Return the vocabulary of a tokenizer, on the CPU."""
        special = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        special[sorted(tokenizer.special_ids)] = True
        starts = torch.zeros_like(special)
        starts[: len(tokenizer.word_start)] = torch.as_tensor(tokenizer.word_start, dtype=torch.bool)
        return cls(tokenizer.mask_id, special, tokenizer.used_size, starts)

    @functools.cached_property
    def replacements(self) -> Tensor:
        """(R,) int64: the ids that a random replacement is drawn from."""
        return (~self.special[: self.used_size]).nonzero().squeeze(1)

    def to(self, device: torch.device | str) -> Vocabulary:
        """Return a copy on another device."""
        return replace(self, special=self.special.to(device), word_start=self.word_start.to(device))
