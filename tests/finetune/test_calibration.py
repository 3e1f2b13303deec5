"""Temperature and calibration error against what they are defined by."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.base.errors import EmptyInput
from encodery.finetune.calibration import fit_temperature, nll, reliability_diagram, softmax


def drawn(rows: int = 4000, heat: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn by them, made `heat` times too large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (rows, 4))
    chances = softmax(logits)
    truth = (chances.cumsum(1) > rng.random((rows, 1))).argmax(1)
    return logits * heat, truth


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_logits_too_large(heat: float) -> None:
    logits, truth = drawn(heat=heat)
    temperature = fit_temperature(logits, truth)
    assert temperature == pytest.approx(heat, rel=0.06)
    assert nll(logits, truth, temperature) <= nll(logits, truth, heat) + 1e-4


def test_softmax_is_scipys() -> None:
    from scipy.special import softmax as scipy_softmax

    logits, _ = drawn(50)
    np.testing.assert_allclose(softmax(logits, 2.0), scipy_softmax(logits / 2, axis=1), atol=1e-12)


def test_a_model_that_is_always_right_is_not_made_infinitely_sure() -> None:
    truth = np.arange(30) % 3
    logits = np.eye(3)[truth] * 5
    temperature = fit_temperature(logits, truth)
    assert softmax(logits, temperature).max() < 0.995


def test_calibrated_answers_have_little_error_and_boasts_have_much() -> None:
    logits, truth = drawn(20_000)
    for heat, minimum, maximum in ((1.0, 0.0, 0.02), (5.0, 0.1, 1.0)):
        chances = softmax(logits * heat)
        diagram = reliability_diagram(chances.max(1), chances.argmax(1) == truth)
        assert minimum <= diagram.error <= maximum
        assert diagram.count.sum() == 20_000


def test_the_error_by_hand() -> None:
    diagram = reliability_diagram(np.array([0.9, 0.9, 1.0]), np.array([True, False, True]), bins=10)
    assert diagram.count.tolist() == [3]
    assert diagram.error == pytest.approx(2.8 / 3 - 2 / 3)
    with pytest.raises(EmptyInput):
        reliability_diagram(np.zeros(0), np.zeros(0, bool))
    with pytest.raises(EmptyInput):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64))
