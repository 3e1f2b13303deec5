"""Words that stand between the same neighbours begin alike, and each is guessed as often as it occurs.

The left and the right neighbour of every token are counted, and the word table begins with the leading vectors of what
they tell (`_words`): masked language modelling would spend its first minutes on finding as much. Vectors of other
models, brought into a narrow range, are known to help transformers (arXiv:2407.12514); these come from the run's own
text, in seconds.

Differs from `random`: by word table and decoder's bias alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit
from encodery.train.data_init._counts import CountBasedInit


@dataclass(frozen=True, kw_only=True)
class CooccurrenceInit(CountBasedInit):
    """See `Counted`."""

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Word table and decoder bias; nothing where no two tokens stand side by side."""
        return name_of(self) if self.init_token_embeddings(model, split, generator) is not None else "random"
