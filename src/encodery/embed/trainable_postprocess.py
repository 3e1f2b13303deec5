"""Postprocess steps that are fitted before training, and through which embeddings are trained.

Whitening (arXiv:2103.15316) removes what all embeddings of a model have in common, which distinguishes no texts; so the
loss does not see it from the first step on. What was fitted stays unchanged while the encoder is trained.
Shapes: N vectors, H width before, K dimensions after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing


class TrainablePostProcess(nn.Module):
    """`steps`, fitted to a sample (N, H) of the embeddings before training. What is fitted are buffers, so that a
    resumed run has what was fitted at its start.

    Raises `SettingsError` if a step before the last fitted one is not linear.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, steps: Sequence[PostProcess], vectors: np.ndarray) -> None:
        super().__init__()
        self.steps = tuple(steps)
        fitted, width = PostProcessing.fitted(steps, vectors), vectors.shape[1]
        weight, bias = np.eye(width), np.zeros(width)
        last = max(place for place, step in enumerate(steps) if type(step).fit is not PostProcess.fit)
        for step, state in zip(fitted.steps[: last + 1], fitted.states, strict=False):
            matrix, offset = step.as_linear(state, weight.shape[1])
            weight, bias = weight @ matrix, bias @ matrix + offset
        self.register_buffer("weight", torch.from_numpy(weight).float())
        self.register_buffer("bias", torch.from_numpy(bias).float())
        for place, state in enumerate(fitted.states):
            for name, array in state.items():
                self.register_buffer(_buffer_name(place, name), torch.from_numpy(np.ascontiguousarray(array)))
        self.state_names = [tuple(state) for state in fitted.states]

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., H) → (..., K), by all steps up to the last fitted one."""
        return vectors @ self.weight + self.bias

    def postprocessing(self) -> PostProcessing:
        """Return all steps with what was fitted."""
        states = [
            {name: self.get_buffer(_buffer_name(place, name)).cpu().numpy() for name in names}
            for place, names in enumerate(self.state_names)
        ]
        return PostProcessing(self.steps, tuple(states))


def _buffer_name(place: int, name: str) -> str:
    return f"{name}_{place}"
