"""Several losses at once: the weighted sum of each, what they ask for together, and what cannot be joined."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.losses import Loss, LossInputs
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


def test_the_sum_of_each_by_its_weight() -> None:
    given = LossInputs(drawn(0), guide=LossInputs(drawn(1)))
    one, other = InfoNCE(margin=0.3), SimilarityKL()
    both = Combined(loss=one, others=(other,), weights=(0.5,))
    assert both.needs_guide
    assert both.in_batch
    assert both.column_range == (2, None)
    alone = [normalised_loss(loss.terms(given), loss.counts(2, 6, None)) for loss in (one, other)]
    torch.testing.assert_close(normalised_loss(both.terms(given), both.counts(2, 6, None)), alone[0] + 0.5 * alone[1])
    table = {"is": "combined", "loss": {"is": "infonce"}, "others": [{"is": "similarity_kl"}]}
    assert decode(Loss, table) == Combined(loss=InfoNCE(), others=(SimilarityKL(),))  # type: ignore[type-abstract]


def test_layers_go_to_the_loss_that_asked_for_them() -> None:
    given = LossInputs(drawn(0), guide=LossInputs(drawn(1)), layers=(LossInputs(drawn(2)),))
    deep = MatryoshkaLayers(loss=InfoNCE())
    both = Combined(loss=deep, others=(SimilarityKL(),))
    assert both.sample_layers(4, 3) == deep.sample_layers(4, 3)
    found = both.terms(given)
    assert set(found) == set(deep.terms(given)) | {"similarity_kl"}
    with pytest.raises(SettingsError, match="earlier layers"):
        Combined(loss=deep, others=(MatryoshkaLayers(loss=SimilarityKL()),)).sample_layers(4, 0)


def test_what_cannot_be_joined_is_said() -> None:
    with pytest.raises(SettingsError, match="different labels: label, score"):
        Combined(loss=CoSENT(), others=(SupCon(),))
    with pytest.raises(SettingsError, match=r"weights = \[1\.0, 2\.0\]"):
        Combined(loss=InfoNCE(), others=(SimilarityKL(),), weights=(1.0, 2.0))
    twice = Combined(loss=InfoNCE(), others=(InfoNCE(temperature=1.0),))
    with pytest.raises(SettingsError, match="a term 'infonce' as well"):
        twice.counts(2, 6, None)
    assert Combined(loss=Contrastive(), others=(CoSENT(),)).target_kind == "score"
