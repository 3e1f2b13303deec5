"""Evaluation of a fine-tuned model on dev and test rows: calibration, metrics, details for the report.

Shapes: E examples, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from encodery.finetune.examples import Examples
from encodery.finetune.predict import Predictor
from encodery.finetune.prediction_details import prediction_details
from encodery.finetune.task_types import Rows


@dataclass
class FinalEvaluation:
    """`calibration` chosen on dev rows; `metrics` by name, with the split as prefix; `details`: split → its details."""

    calibration: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


def dev_metrics(predictor: Predictor, rows: Rows, examples: Examples, batch_tokens: int) -> dict[str, float]:
    """Return the metrics of dev rows, calibrated on themselves, as `dev_…`."""
    outputs = evaluation_outputs(predictor, examples, batch_tokens)
    calibration = predictor.task.calibrate(outputs, examples, rows, predictor.metadata)
    answers = predictor.task.decode(outputs, examples, rows, predictor.metadata, calibration)
    return _prefixed("dev", predictor.task.metrics(answers, rows, predictor.metadata))


def evaluate_splits(
    predictor: Predictor,
    dev: tuple[Rows, Examples] | None,
    test: tuple[Rows, Examples] | None,
    batch_tokens: int,
) -> FinalEvaluation:
    """Calibrate on dev rows, then evaluate dev rows (`tuned_dev_…`) and test rows (`test_…`) with that calibration.

    Sets `predictor.calibration`.
    """
    final, task, metadata = FinalEvaluation(), predictor.task, predictor.metadata
    for split, name, part in (("dev", "tuned_dev", dev), ("test", "test", test)):
        if part is None:
            continue
        rows, examples = part
        outputs = evaluation_outputs(predictor, examples, batch_tokens)
        if split == "dev":
            final.calibration = task.calibrate(outputs, examples, rows, metadata)
            predictor.calibration = final.calibration
        answers = task.decode(outputs, examples, rows, metadata, final.calibration)
        final.details[split] = prediction_details(task, answers, rows, metadata)
        final.metrics |= _prefixed(name, task.metrics(answers, rows, metadata))
    final.metrics |= _prefixed("tuned", final.calibration)
    return final


def evaluation_outputs(predictor: Predictor, examples: Examples, batch_tokens: int) -> list[np.ndarray]:
    """Return the outputs (E) in evaluation mode; model and module are in their former mode afterwards."""
    modules: tuple[nn.Module, ...] = (predictor.model, predictor.module)
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    outputs = predictor.outputs(examples, batch_tokens)
    for module, mode in zip(modules, training, strict=True):
        module.train(mode)
    return outputs


def _prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}
