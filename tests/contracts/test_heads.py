"""Contract of heads: whatever parts lie in the folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.heads import LMHead
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", part_names(LMHead))
def test_what_every_head_promises(name: str, narrow: bool) -> None:
    part = find_part(LMHead, name)()
    assert decode(LMHead, encode(part)) == part
    settings = ModelSettings(width=16, depth=1, heads=2, vocab_size=40, max_length=12, head=part)
    if narrow:
        settings = replace(settings, embeddings=FactorizedEmbeddings(width=8))
    model = build_model(settings)
    head = model.heads[name]
    hidden = model(Batch.from_sequences([[3, 1, 2], [4, 5]])).hidden
    features = head.features(hidden[[1, 4]])
    weight, bias = head.decoder(model.encoder)
    assert features.shape == (2, weight.shape[1])
    assert weight.shape[0] == 40
    logits = head(hidden[[1, 4]], model.encoder)
    torch.testing.assert_close(logits, torch.nn.functional.linear(features, weight, bias))
    torch.testing.assert_close(head(hidden[[4]], model.encoder), logits[1:]), "rows do not mix"
    assert head(hidden[:0], model.encoder).shape == (0, 40)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None for p in head.parameters())
