"""Soft labels: the student learns the teacher's probabilities at a raised temperature. arXiv:1503.02531 (Hinton 2015)

For classes the loss is T² · KL(teacher ‖ student) of the probabilities softmax(logits / T); the factor T² keeps its
gradient as large as that of hard labels. For predictions that are no distribution over classes (scores of a ranker,
starts and ends of answers) it is the mean squared difference of the outputs, the limit of high temperatures.
DistilBERT (arXiv:1910.01108) adds it to the masked-language-modelling loss, with the `hidden` part as a third term.
Shapes: N predictions, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError
from encodery.base.settings import check_interval
from encodery.compress.distill import Distillation, DistillationModule
from encodery.model.shape import Shape
from encodery.train.job import JobOutputs


@dataclass(frozen=True, kw_only=True)
class LogitDistillation(Distillation):
    """Use it first: it works for pre-training and for every task, whatever the sizes of student and teacher.

    `temperature`: higher ones give more weight to the classes that the teacher finds unlikely; 1 compares its own
    probabilities.

        encodery compress RUN --model small --out student distill.is=logits distill.temperature=4
    """

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_interval(self, "0 < x", "weight", "temperature")

    def build(self, student: Shape, teacher: Shape) -> DistillationModule:
        return _LogitModule(self.temperature)


class _LogitModule(DistillationModule):
    mean_over: ClassVar[Literal["predictions", "tokens"]] = "predictions"

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: JobOutputs, teacher: JobOutputs) -> Tensor:
        if student.logits.shape != teacher.logits.shape:
            raise InputError(
                f"distill.is=logits: the student has predictions of shape {tuple(student.logits.shape)}, the teacher "
                f"{tuple(teacher.logits.shape)}. They need the same vocabulary and the same labels."
            )
        with torch.autocast(student.logits.device.type, enabled=False):
            ours, theirs = student.logits.float(), teacher.logits.float()
            if not student.is_softmax:
                return (ours - theirs).square().flatten(1).mean(1)
            t = self.temperature
            log_p, log_q = (theirs / t).log_softmax(-1), (ours / t).log_softmax(-1)
            return t * t * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
