"""What is chosen where a recipe leaves it open, and settings that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.embed.defaults import default_batch_size, default_epochs, default_optimizer
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.matryoshka import Matryoshka
from encodery.embed.training import EmbedTraining


def test_epochs_and_learning_rate() -> None:
    assert default_epochs(100) == 10
    assert default_epochs(10_000) == 2
    assert default_epochs(1_000_000) == 1
    assert default_optimizer(768).lr == 3e-5
    assert default_optimizer(128).lr == pytest.approx(4.4e-4)
    assert default_optimizer(768, parameter_efficient=True).lr == pytest.approx(3e-4)


def test_the_batch_size_leaves_steps_for_scored_pairs() -> None:
    assert [default_batch_size(CoSENT(), rows, 3) for rows in (100, 300, 600, 1200, 10**6)] == [8, 8, 16, 32, 64]
    assert default_batch_size(CoSENT(), 300, 20) == 32
    assert default_batch_size(Matryoshka(loss=CoSENT()), 300, 3) == 8, "a wrapper reads what its inner loss reads"
    assert default_batch_size(InfoNCE(), 100, 1) == default_batch_size(None, 100, 1) == 64
    assert EmbedTraining(loss=CoSENT(), epochs=3).batch_size_for(300) == 8
    assert EmbedTraining(loss=CoSENT(), batch=5).batch_size_for(300) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"dropout": 1.0}, "dropout = 1"),
        ({"heldout": -0.1}, "heldout = -0.1"),
        ({"num_negatives": -1}, "num_negatives = -1"),
        ({"num_mined_negatives": 0}, "num_mined_negatives = 0"),
        ({"roles": {"answer": "other"}}, "'answer' is not a role"),
        ({"objective": "denoising", "loss": "infonce"}, "objective = 'denoising' brings its own loss"),
        ({"objective": {"is": "denoising", "deletion_rate": 1.0}}, "deletion_rate = 1"),
        ({"objective": {"is": "discourse", "context": 7}}, "context = 7"),
        ({"objective": {"is": "multi_vector", "token_dim": 0}}, "token_dim = 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decode(EmbedTraining, settings)
