"""Checks of language-model heads, each at the model's width and with narrower embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from encodery.base.settings import decode, encode
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.heads import LMHead, LMHeadModule
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch


def examples(part: LMHead) -> Iterator[tuple[Model, torch.Tensor]]:
    """Yield models with the head, and hidden states of five positions (5, H)."""
    for embeddings in (PlainEmbeddings(), FactorizedEmbeddings(width=8)):
        sizes = ModelSettings(
            width=16, depth=1, heads=2, vocab_size=40, max_length=12, embeddings=embeddings, head=part
        )
        model = build_model(sizes)
        yield model, model(Batch.from_sequences([[3, 1, 2], [4, 5]])).hidden


def head_of(model: Model) -> LMHeadModule:
    """Return the module of the only head of a model."""
    (module,) = model.heads.values()
    assert isinstance(module, LMHeadModule)
    return module


def check_settings_round_trip(part: LMHead) -> None:
    """The part is what its settings decode to."""
    assert decode(LMHead, encode(part)) == part


def check_logits(part: LMHead) -> None:
    """The logits are the decoder applied to the features, for each position separately, even for none."""
    for model, hidden in examples(part):
        head = head_of(model)
        features, (weight, bias) = head.features(hidden[[1, 4]]), head.decoder(model.encoder)
        assert features.shape == (2, weight.shape[1])
        assert weight.shape[0] == 40
        logits = head(hidden[[1, 4]], model.encoder)
        torch.testing.assert_close(logits, torch.nn.functional.linear(features, weight, bias))
        torch.testing.assert_close(head(hidden[[4]], model.encoder), logits[1:])
        assert head(hidden[:0], model.encoder).shape == (0, 40)


def check_all_weights_are_trained(part: LMHead) -> None:
    """Every parameter gets a gradient from the logits."""
    for model, hidden in examples(part):
        head = head_of(model)
        head(hidden[[1, 4]], model.encoder).logsumexp(1).sum().backward()
        missing = [name for name, parameter in head.named_parameters() if parameter.grad is None]
        assert not missing, f"without a gradient: {', '.join(missing)}"
