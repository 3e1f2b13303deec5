"""A sequence of post-processing steps with their fitted states, and its file.

Shapes: N vectors, H width before, K dimension after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.encoders.postprocess import PostProcess, State


@dataclass(frozen=True)
class PostProcessing:
    """`steps` in order, and the state of each."""

    steps: tuple[PostProcess, ...]
    states: tuple[State, ...]

    @classmethod
    def fitted(cls, steps: Sequence[PostProcess], vectors: np.ndarray) -> PostProcessing:
        """Fit each step to a sample (N, H) that the earlier steps have processed."""
        states = []
        for step in steps:
            states.append(step.fit(vectors))
            vectors = step.apply(vectors, states[-1])
        return cls(tuple(steps), tuple(states))

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """(N, H) float32 → (N, K) float32."""
        for step, state in zip(self.steps, self.states, strict=True):
            vectors = step.apply(vectors, state)
        return np.ascontiguousarray(vectors, np.float32)

    def output_dim(self, width: int) -> int:
        """K for vectors of width H."""
        for step in self.steps:
            width = step.output_dim(width)
        return width

    def save(self, file: Path) -> None:
        """Write the states; the steps are settings and are stored as such."""
        arrays = {f"{i}.{name}": array for i, state in enumerate(self.states) for name, array in state.items()}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)

    @classmethod
    def load(cls, steps: Sequence[PostProcess], file: Path) -> PostProcessing:
        """Read the states. Raises `ArtifactError` for a file that is missing, damaged or of other steps."""
        try:
            arrays = load_file(file)
        except Exception as error:
            raise ArtifactError(f"{file}: is missing or damaged: {error}") from error
        states: list[State] = [{} for _ in steps]
        for name, array in arrays.items():
            number, _, key = name.partition(".")
            if not number.isdigit() or int(number) >= len(states):
                raise ArtifactError(f"{file}: '{name}' belongs to none of the {len(states)} post-processing steps.")
            states[int(number)][key] = array
        return cls(tuple(steps), tuple(states))


def unfitted_postprocessing(steps: Sequence[PostProcess]) -> PostProcessing:
    """Post-processing whose steps need no sample. Raises `SettingsError` if one of them does."""
    for step in steps:
        if type(step).fit is not PostProcess.fit:
            raise SettingsError(
                f"postprocess = '{name_of(step)}': must be fitted to a sample of vectors, and nothing fitted is stored "
                "with the model."
            )
    return PostProcessing(tuple(steps), tuple({} for _ in steps))
