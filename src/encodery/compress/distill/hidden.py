"""Hidden states: the last hidden states of the student point where those of the teacher do. arXiv:1910.01108

The loss of a token is 1 - cos(student, teacher), the third term of DistilBERT's loss. Differs from `logits`: it reaches
every token, not the predicted ones only. If the widths differ, a linear map of the student's states is trained with it
and dropped at the end (arXiv:1909.10351). Shapes: T tokens, H width of the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.settings import check_interval
from encodery.compress.distill import Distillation, DistillationModule
from encodery.model.shape import Shape
from encodery.train.job import JobOutputs


@dataclass(frozen=True, kw_only=True)
class HiddenDistillation(Distillation):
    """Use it beside `logits` if the student's layers were taken from the teacher.

    encodery compress RUN --model small --out student distill='["logits", "hidden"]'
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "weight")

    def build(self, student: Shape, teacher: Shape) -> DistillationModule:
        return _HiddenModule(student.width, teacher.width)


class _HiddenModule(DistillationModule):
    mean_over: ClassVar[Literal["predictions", "tokens"]] = "tokens"

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = None if width == teacher_width else nn.Linear(width, teacher_width, bias=False)
        if self.project is not None:  # Equal in every run, without a generator.
            nn.init.eye_(self.project.weight)

    def forward(self, student: JobOutputs, teacher: JobOutputs) -> Tensor:
        with torch.autocast(student.hidden.device.type, enabled=False):
            hidden = student.hidden.float()
            hidden = hidden if self.project is None else self.project(hidden)
            return 1 - F.cosine_similarity(hidden, teacher.hidden.float(), dim=-1)
