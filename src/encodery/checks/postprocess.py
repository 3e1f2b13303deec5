"""Checks of post-processing steps. Shapes: N vectors, H width before, K dimension after."""

from __future__ import annotations

import numpy as np

from encodery.base.settings import decode, encode
from encodery.encoders.postprocess import PostProcess

WIDTH = 16


def example_vectors() -> np.ndarray:
    """Vectors (50, 16) whose dimensions have different variances and a common mean."""
    vectors = np.random.default_rng(0).standard_normal((50, WIDTH)) * np.linspace(0.1, 3, WIDTH) + 5
    return vectors.astype(np.float32)


def check_each_vector_is_processed_by_itself(part: PostProcess) -> None:
    """A vector's result does not depend on the other vectors, and has the dimension that the step states."""
    vectors = example_vectors()
    state = part.fit(vectors)
    processed = part.apply(vectors, state)
    assert processed.shape == (len(vectors), part.output_dim(WIDTH)), f"the shape is {processed.shape}"
    assert processed.dtype == np.float32, f"the type is {processed.dtype}"
    assert np.isfinite(processed).all(), "a value is not finite"
    np.testing.assert_allclose(part.apply(vectors[7:8], state)[0], processed[7], atol=1e-4)


def check_state_is_arrays(part: PostProcess) -> None:
    """The state can be stored: it is numpy arrays by name."""
    state = part.fit(example_vectors())
    assert all(isinstance(array, np.ndarray) for array in state.values()), "the state holds something else than arrays"


def check_settings_round_trip(part: PostProcess) -> None:
    """The settings are read back as they were written."""
    assert decode(PostProcess, encode(part)) == part


def check_tiny_samples(part: PostProcess) -> None:
    """A sample of one or two vectors, and a zero vector, give finite numbers."""
    for count in (1, 2):
        state = part.fit(example_vectors()[:count])
        assert np.isfinite(part.apply(np.zeros((3, WIDTH), np.float32), state)).all(), f"sample of {count}"


def check_linear(part: PostProcess) -> None:
    """The step equals the matrix and the shift that it gives for training through it."""
    vectors = example_vectors()
    state = part.fit(vectors)
    weight, bias = part.as_linear(state, WIDTH)
    assert weight.shape == (WIDTH, part.output_dim(WIDTH)), f"the weight's shape is {weight.shape}"
    np.testing.assert_allclose(vectors @ weight + bias, part.apply(vectors, state), atol=1e-3)
