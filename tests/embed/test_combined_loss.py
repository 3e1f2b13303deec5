"""Combined losses: their weighted sum, what they need together, and what cannot be combined."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.losses import Loss
from encodery.embed.losses.combined import Combined
from encodery.embed.losses.contrastive import Contrastive
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.matryoshka_layers import MatryoshkaLayers
from encodery.embed.losses.similarity_kl import SimilarityKL
from encodery.embed.losses.supcon import SupCon
from encodery.objectives import normalised_loss


def drawn(seed: int) -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(6, 8, generator=source) for _ in range(2))


def test_the_loss_is_the_weighted_sum() -> None:
    inputs = VectorInputs(drawn(0), guide=VectorInputs(drawn(1)))
    first, second = InfoNCE(margin=0.3), SimilarityKL()
    both = Combined(loss=first, others=(second,), weights=(0.5,))
    assert both.needs_guide
    assert both.in_batch
    assert both.column_range == (2, None)
    alone = [normalised_loss(loss.terms(inputs), loss.counts(2, 6, None)) for loss in (first, second)]
    torch.testing.assert_close(normalised_loss(both.terms(inputs), both.counts(2, 6, None)), alone[0] + 0.5 * alone[1])
    table = {"is": "combined", "loss": {"is": "infonce"}, "others": [{"is": "similarity_kl"}]}
    assert decode(Loss, table) == Combined(loss=InfoNCE(), others=(SimilarityKL(),))  # type: ignore[type-abstract]


def test_layers_are_given_to_the_loss_that_samples_them() -> None:
    inputs = VectorInputs(drawn(0), guide=VectorInputs(drawn(1)), layers=(VectorInputs(drawn(2)),))
    deep = MatryoshkaLayers(loss=InfoNCE())
    both = Combined(loss=deep, others=(SimilarityKL(),))
    assert both.sample_layers(4, 3) == deep.sample_layers(4, 3)
    terms = both.terms(inputs)
    assert set(terms) == set(deep.terms(inputs)) | {"similarity_kl"}
    with pytest.raises(SettingsError, match="earlier layers"):
        Combined(loss=deep, others=(MatryoshkaLayers(loss=SimilarityKL()),)).sample_layers(4, 0)


def test_losses_that_cannot_be_combined_are_refused() -> None:
    with pytest.raises(SettingsError, match="different labels: label, score"):
        Combined(loss=CoSENT(), others=(SupCon(),))
    with pytest.raises(SettingsError, match=r"weights = \[1\.0, 2\.0\]"):
        Combined(loss=InfoNCE(), others=(SimilarityKL(),), weights=(1.0, 2.0))
    twice = Combined(loss=InfoNCE(), others=(InfoNCE(temperature=1.0),))
    with pytest.raises(SettingsError, match="both have a term 'infonce'"):
        twice.counts(2, 6, None)
    assert Combined(loss=Contrastive(), others=(CoSENT(),)).target_kind == "score"
