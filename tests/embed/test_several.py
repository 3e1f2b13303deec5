"""Several losses at once: the weighted sum of each, what they ask for together, and what cannot be joined."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.losses import Given, Loss
from encodery.embed.losses.contrastive import Contrastive
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.imitate import Imitate
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.matryoshka_layers import MatryoshkaLayers
from encodery.embed.losses.several import Several
from encodery.embed.losses.supcon import SupCon
from encodery.objectives import share


def drawn(seed: int) -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(6, 8, generator=source) for _ in range(2))


def test_the_sum_of_each_by_its_weight() -> None:
    given = Given(drawn(0), guide=Given(drawn(1)))
    one, other = InfoNCE(margin=0.3), Imitate()
    both = Several(loss=one, also=(other,), weights=(0.5,))
    assert both.guided
    assert both.together
    assert both.columns == (2, None)
    alone = [share(loss.terms(given), loss.counts(2, 6, None)) for loss in (one, other)]
    torch.testing.assert_close(share(both.terms(given), both.counts(2, 6, None)), alone[0] + 0.5 * alone[1])
    table = {"is": "several", "loss": {"is": "infonce"}, "also": [{"is": "imitate"}]}
    assert decode(Loss, table) == Several(loss=InfoNCE(), also=(Imitate(),))  # type: ignore[type-abstract]


def test_layers_go_to_the_loss_that_asked_for_them() -> None:
    given = Given(drawn(0), guide=Given(drawn(1)), layers=(Given(drawn(2)),))
    deep = MatryoshkaLayers(loss=InfoNCE())
    both = Several(loss=deep, also=(Imitate(),))
    assert both.layers(4, 3) == deep.layers(4, 3)
    found = both.terms(given)
    assert set(found) == set(deep.terms(given)) | {"imitate"}
    with pytest.raises(SettingsError, match="earlier layers"):
        Several(loss=deep, also=(MatryoshkaLayers(loss=Imitate()),)).layers(4, 0)


def test_what_cannot_be_joined_is_said() -> None:
    with pytest.raises(SettingsError, match="different labels: label, score"):
        Several(loss=CoSENT(), also=(SupCon(),))
    with pytest.raises(SettingsError, match=r"weights = \[1\.0, 2\.0\]"):
        Several(loss=InfoNCE(), also=(Imitate(),), weights=(1.0, 2.0))
    twice = Several(loss=InfoNCE(), also=(InfoNCE(temperature=1.0),))
    with pytest.raises(SettingsError, match="a term 'infonce' as well"):
        twice.counts(2, 6, None)
    assert Several(loss=Contrastive(), also=(CoSENT(),)).target == "score"
