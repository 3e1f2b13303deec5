"""Prompt tuning: only vectors in front of every sequence learn. arXiv:2104.08691

`deep` gives each layer its own vectors (arXiv:2110.07602), which a small model needs. They are initialised as the
embeddings of random tokens. They cannot be merged: they become part of the model, under `extensions` of its settings.
Shapes: K vectors, L layers, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.adapt import Adaptation
from encodery.model.extensions.prompt import SoftPrompt
from encodery.model.network import Model


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Adaptation):
    """Use it if the weights must stay as they are. `num_tokens` is K; `init_from_tokens`: initialise the vectors as
    embeddings of tokens, otherwise as small random values.

        encodery finetune classify rows.csv --model run --out tuned adapt.is=prompt adapt.deep=true
    """

    num_tokens: int = 20
    deep: bool = False
    init_from_tokens: bool = True

    def __post_init__(self) -> None:
        self._extension()

    def apply(self, model: Model, generator: torch.Generator) -> None:
        values = self._random_embeddings(model, generator) if self.init_from_tokens else None
        model.requires_grad_(False)
        prompt = model.add_extension(self._extension(), generator).sequence_transform
        assert prompt is not None
        prompt.requires_grad_(True)
        if values is not None:
            with torch.no_grad():
                for vectors in prompt.parameters():
                    vectors.copy_(values.expand_as(vectors))

    def _extension(self) -> SoftPrompt:
        return SoftPrompt(num_tokens=self.num_tokens, deep=self.deep)

    def _random_embeddings(self, model: Model, generator: torch.Generator) -> torch.Tensor:
        """(K, H) the first layer's input for random tokens, without positions."""
        encoder = model.encoder
        ids = torch.randint(model.settings.vocab_size, (self.num_tokens,), generator=generator)
        with torch.no_grad():
            embedded = encoder.embeddings(ids.to(encoder.token_embeddings.device), None)
            x: torch.Tensor = encoder.embeddings.widen(encoder.embedding_norm(embedded))
        return x
