"""What every finish step promises, over whatever parts lie in the folder."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.encoders.postprocess import PostProcess

WIDTH = 16
VECTORS = (np.random.default_rng(0).standard_normal((50, WIDTH)) * np.linspace(0.1, 3, WIDTH) + 5).astype(np.float32)


@pytest.mark.parametrize("name", part_names(PostProcess))
def test_rows_are_finished_apart_from_each_other(name: str) -> None:
    part = find_part(PostProcess, name)()
    state = part.fit(VECTORS)
    finished = part.apply(VECTORS, state)
    assert finished.shape == (len(VECTORS), part.output_dim(WIDTH))
    assert finished.dtype == np.float32
    assert np.isfinite(finished).all()
    np.testing.assert_allclose(part.apply(VECTORS[7:8], state)[0], finished[7], atol=1e-4)
    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert decode(PostProcess, encode(part)) == part


@pytest.mark.parametrize("name", part_names(PostProcess))
@pytest.mark.parametrize("count", [1, 2])
def test_a_tiny_sample_and_zero_vectors_give_finite_numbers(name: str, count: int) -> None:
    part = find_part(PostProcess, name)()
    state = part.fit(VECTORS[:count])
    assert np.isfinite(part.apply(np.zeros((3, WIDTH), np.float32), state)).all()


@pytest.mark.parametrize("name", part_names(PostProcess))
def test_a_linear_step_is_its_line(name: str) -> None:
    part = find_part(PostProcess, name)()
    state = part.fit(VECTORS)
    if not part.is_linear:
        with pytest.raises(SettingsError, match="is not linear"):
            part.as_linear(state, WIDTH)
        return
    weight, bias = part.as_linear(state, WIDTH)
    assert weight.shape == (WIDTH, part.output_dim(WIDTH))
    np.testing.assert_allclose(VECTORS @ weight + bias, part.apply(VECTORS, state), atol=1e-3)
