"""Finish steps that are fitted before training, for vectors that are trained through them.

The common part that all vectors of an encoder share, which no pair of texts tells apart, is out of the way of the loss
from the first step on, as whitening has it out of the way of comparisons (arXiv:2103.15316). What the steps have learnt
stays as it is while the encoder learns. Shapes: N vectors, H width before, K after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing


class TrainablePostProcess(nn.Module):
    """`steps`, fitted to a sample (N, H) of what the encoder says before it is trained. All of it are buffers, so that
    a run that is resumed goes on with what was fitted at its start.

    Raises `SettingsError` where a step before the last that learns is not linear.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, steps: Sequence[PostProcess], vectors: np.ndarray) -> None:
        super().__init__()
        self.steps = tuple(steps)
        finishing, width = PostProcessing.fitted(steps, vectors), vectors.shape[1]
        weight, bias = np.eye(width), np.zeros(width)
        last = max(place for place, step in enumerate(steps) if type(step).fit is not PostProcess.fit)
        for step, state in zip(finishing.steps[: last + 1], finishing.states, strict=False):
            turn, shift = step.as_linear(state, weight.shape[1])
            weight, bias = weight @ turn, bias @ turn + shift
        self.register_buffer("weight", torch.from_numpy(weight).float())
        self.register_buffer("bias", torch.from_numpy(bias).float())
        for place, state in enumerate(finishing.states):
            for name, array in state.items():
                self.register_buffer(_buffer(place, name), torch.from_numpy(np.ascontiguousarray(array)))
        self.state_names = [tuple(state) for state in finishing.states]

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., H) to (..., K), by all steps up to the last that learns."""
        return vectors @ self.weight + self.bias

    def postprocessing(self) -> PostProcessing:
        """All steps, with what each has learnt."""
        states = [
            {name: self.get_buffer(_buffer(place, name)).cpu().numpy() for name in names}
            for place, names in enumerate(self.state_names)
        ]
        return PostProcessing(self.steps, tuple(states))


def _buffer(place: int, name: str) -> str:
    return f"{name}_{place}"
