"""Prompt tuning: only vectors in front of every sequence learn. arXiv:2104.08691

`deep` gives each layer vectors of its own (arXiv:2110.07602), which a small model needs. They start as embeddings of
words drawn at random. They cannot be folded: they become part of the model, under `extensions` of its settings.
Shapes: K vectors, L layers, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.model.extensions import prompt
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Adaptation):
    """`tokens` is K; `words`: start from embeddings of words, else from small random values."""

    num_tokens: int = 20
    deep: bool = False
    init_from_tokens: bool = True

    def __post_init__(self) -> None:
        self._insert()

    def apply(self, model: Model, generator: torch.Generator) -> None:
        values = self._words(model, generator) if self.init_from_tokens else None
        model.requires_grad_(False)
        front = model.add_extension(self._insert(), generator).sequence_transform
        assert front is not None
        front.requires_grad_(True)
        if values is not None:
            with torch.no_grad():
                for vectors in front.parameters():
                    vectors.copy_(values.expand_as(vectors))

    def _insert(self) -> prompt.SoftPrompt:
        return prompt.SoftPrompt(num_tokens=self.num_tokens, deep=self.deep)

    def _words(self, model: Model, generator: torch.Generator) -> torch.Tensor:
        """(K, H) what the first layer gets for words by themselves, without positions."""
        encoder = model.encoder
        ids = torch.randint(model.settings.vocab_size, (self.num_tokens,), generator=generator).to(
            encoder.token_embeddings.device
        )
        with torch.no_grad():
            x: torch.Tensor = encoder.embeddings.widen(encoder.embedding_norm(encoder.embeddings(ids, None)))
        return x
