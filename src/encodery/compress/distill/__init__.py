"""Distillation: a student is trained to give the outputs of its teacher."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Shape
from encodery.train.job import JobOutputs


class Distillation(Part):
    """What of the outputs is compared, and how. `weight`: of its term beside the job's own loss."""

    weight: float

    @abc.abstractmethod
    def build(self, student: Shape, teacher: Shape) -> DistillationModule:
        """The comparison of a student and a teacher of these sizes.

        Raises `SettingsError` if they cannot be compared.
        """


class DistillationModule(nn.Module, abc.ABC):
    """A comparison at work; its own weights, if any, are dropped when the student is saved.

    `mean_over`: what its loss is a mean over: the predictions or the tokens of a step.
    """

    mean_over: ClassVar[Literal["predictions", "tokens"]]

    @abc.abstractmethod
    def forward(self, student: JobOutputs, teacher: JobOutputs) -> Tensor:
        """Return one loss for each prediction (N,) or token (T,); the teacher's outputs have no gradient."""
