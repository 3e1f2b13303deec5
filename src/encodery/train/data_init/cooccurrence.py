"""Token embeddings from counts of neighbours, and a decoder bias from frequencies.

The left and the right neighbour of every token are counted, and the token embeddings are initialised with the leading
singular vectors of these statistics (`_counts`): tokens with the same neighbours start with similar embeddings, which
masked language modelling would spend its first minutes on. Embeddings of other models, scaled to a narrow range, are
known to help transformers (arXiv:2407.12514); these come from the text of the run, in seconds.

Use it with models whose positions or attention do not allow `bigrams`: `data_init.is=cooccurrence`. Differs from
`random` in the token embeddings and the bias of the decoder alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encodery.base.parts import name_of
from encodery.model.network import Model
from encodery.tokens.store import TokenSplit
from encodery.train.data_init._counts import CountBasedInit


@dataclass(frozen=True, kw_only=True)
class CooccurrenceInit(CountBasedInit):
    """Token embeddings and decoder bias. The settings are those of `CountBasedInit`."""

    def apply(self, model: Model, split: TokenSplit, generator: torch.Generator) -> str:
        """Changes nothing if no two tokens are neighbours."""
        return name_of(self) if self.init_token_embeddings(model, split, generator) is not None else "random"
