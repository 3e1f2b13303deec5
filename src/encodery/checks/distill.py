"""Checks of distillation, on random outputs of a student and a teacher."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.compress.distill import Distillation, DistillationModule
from encodery.model.settings import ModelSettings
from encodery.model.shape import Shape
from encodery.train.job import JobOutputs

TOKENS, PREDICTIONS, CLASSES = 11, 5, 7


def shape(width: int = 8) -> Shape:
    """Return the sizes of a model."""
    return ModelSettings(width=width, heads=2, depth=1).shape


def outputs(seed: int, width: int = 8, is_softmax: bool = True) -> JobOutputs:
    """Return random outputs, which have a gradient."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, width, generator=draw).requires_grad_()
    return JobOutputs(hidden, torch.randn(PREDICTIONS, CLASSES, generator=draw).requires_grad_(), is_softmax)


def losses(module: DistillationModule, student: JobOutputs, teacher: JobOutputs) -> Tensor:
    """Return the losses, after checking that there is one for each prediction or token."""
    result: Tensor = module(student, teacher)
    number = {"tokens": TOKENS, "predictions": PREDICTIONS}[module.mean_over]
    assert result.shape == (number,), f"the losses have shape {tuple(result.shape)}, not ({number},)"
    return result


def check_settings_round_trip(part: Distillation) -> None:
    """The part is what its settings decode to, and has a positive weight."""
    assert decode(Distillation, encode(part)) == part
    assert part.weight > 0


def check_equal_outputs_have_no_loss(part: Distillation) -> None:
    """A student that gives the teacher's outputs has a loss of zero, and any other one a higher loss."""
    module = part.build(shape(), shape())
    for is_softmax in (True, False):
        student, teacher = outputs(0, is_softmax=is_softmax), outputs(1, is_softmax=is_softmax)
        assert losses(module, teacher, teacher).abs().max() < 1e-5
        assert (losses(module, student, teacher) > 1e-4).all()


def check_the_student_approaches_the_teacher(part: Distillation) -> None:
    """Following the gradient of the student's outputs lowers the loss."""
    module, teacher, student = part.build(shape(), shape()), outputs(1), outputs(0)
    first = losses(module, student, teacher).sum()
    grads = torch.autograd.grad(first, (student.hidden, student.logits), retain_graph=True, allow_unused=True)
    compared = [t for t, grad in zip((student.hidden, student.logits), grads, strict=True) if grad is not None]
    assert compared, "the loss depends on no output of the student"
    for _ in range(200):
        loss = losses(module, student, teacher).sum()
        for tensor, grad in zip(compared, torch.autograd.grad(loss, compared), strict=True):
            tensor.data.sub_(0.2 * grad)
    assert loss < first / 2, f"the loss went from {float(first):.3f} to {float(loss):.3f} only"


def check_widths_may_differ(part: Distillation) -> None:
    """A student that is narrower than its teacher can be compared, and learns from the comparison."""
    module = part.build(shape(4), shape(8))
    student, teacher = outputs(0, width=4), outputs(1, width=8)
    loss = losses(module, student, teacher).sum()
    weights = [student.hidden, student.logits, *module.parameters()]
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    assert any(grad is not None and grad.isfinite().all() and grad.any() for grad in grads[:2])
    assert all(grad is not None for grad in grads[2:]), "a weight of the comparison does not learn"


def check_half_precision(part: Distillation) -> None:
    """Outputs in bfloat16 give about the loss of those in fp32, in fp32."""
    module, student, teacher = part.build(shape(), shape()), outputs(0), outputs(1)

    def half(out: JobOutputs) -> JobOutputs:
        return dataclasses.replace(out, hidden=out.hidden.bfloat16(), logits=out.logits.bfloat16())

    result = losses(module, half(student), half(teacher))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, losses(module, student, teacher), rtol=0.1, atol=0.05)
