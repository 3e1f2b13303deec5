"""Heads of tasks in every checkpoint format, both ways: those of stock classes run here, and ours in stock classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.parts import find_part, name_of, part_names
from encodery.base.settings import decode
from encodery.checks.formats import SPECIAL, random_model
from encodery.export.hf import HFExporter
from encodery.finetune.artifact import save
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.imported import MULTIPLE_CHOICE, POOLED_KINDS, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.format_types import HeadForm, HeadKind
from encodery.model.formats import CheckpointFormat
from encodery.model.load import load_model, save_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SENTENCES = ["Return the sum of a list.", "Read a line from the file.", "Raise an error.", "The name of a module."]
LABELS = TaskMetadata(labels=("bad", "good", "fair"), counts=(1, 1, 1))
TAGS = TaskMetadata(labels=("B-PER", "I-PER", "O"), counts=(1, 1, 1))
TASKS: dict[HeadKind, tuple[str, TaskMetadata, dict[str, list[Any]]]] = {
    "SequenceClassification": ("classify", LABELS, {"text": SENTENCES}),
    "TokenClassification": ("tag", TAGS, {"text": SENTENCES}),
    "QuestionAnswering": ("span", TaskMetadata(unanswered=0), {"question": SENTENCES[:2], "context": SENTENCES[2:]}),
    "MultipleChoice": ("choice", TaskMetadata(), {"question": SENTENCES[:1], "choices": [SENTENCES[1:]]}),
}
CASES = [(name, kind) for name in part_names(CheckpointFormat) for kind in find_part(CheckpointFormat, name).heads]


def example(part: CheckpointFormat) -> ModelSettings:
    """The example of a format, large enough for real text."""
    return dataclasses.replace(part.example(), vocab_size=320, max_length=64, head=None)


def stock_model(transformers: ModuleType, part: CheckpointFormat, kind: HeadKind) -> Any:
    """A model of the stock class with all weights random."""
    settings = example(part)
    config = part.write_config(settings, SPECIAL) | ({"num_labels": 2} if kind == QUESTION_ANSWERING else {})
    stock_class = getattr(transformers, part.stock_class(kind))
    torch.manual_seed(4)
    model = stock_class(stock_class.config_class(**config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return model


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_head_of_a_stock_class_gives_the_same_outputs_here(
    name: str, kind: HeadKind, transformers: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    part = find_part(CheckpointFormat, name)()
    stock = stock_model(transformers, part, kind)
    stock.save_pretrained(tmp_path / "stock")
    transformers.AutoTokenizer.from_pretrained(str(tokenizer)).save_pretrained(tmp_path / "stock")
    form = part.head_form(kind, stock.config.to_dict())
    if "norm" in form.layers:
        pytest.skip("a norm after the dense layer is computed for rankers only, which test_cross_encoder.py covers")
    predictor = Predictor.from_model(load_model(tmp_path / "stock"), "cpu")
    rows = TASKS[kind][2]
    columns = {"query": SENTENCES[:2], "text": SENTENCES[2:]} if name_of(predictor.task) == "rank" else rows
    examples = predictor.task.prepare(columns, predictor.preprocessor, predictor.metadata, False)
    ours = torch.cat([torch.from_numpy(np.atleast_2d(output)) for output in predictor.outputs(examples)])
    batch = examples.batch(np.arange(len(examples)))
    theirs = _stock_outputs(stock, kind, batch)
    assert ours.std() > 1e-3
    torch.testing.assert_close(ours.flatten(), theirs.flatten(), rtol=0, atol=2e-5)


@torch.inference_mode()
def _stock_outputs(stock: Any, kind: HeadKind, batch: Batch) -> torch.Tensor:
    """The outputs of a stock class for each sequence or token of a packed batch, one sequence at a time."""
    outputs = []
    for start, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(), strict=True):
        inputs = {"input_ids": batch.ids[start:end][None]}
        if batch.segment is not None:
            inputs["token_type_ids"] = batch.segment[start:end][None]
        if kind == MULTIPLE_CHOICE:
            inputs = {key: value[:, None] for key, value in inputs.items()}
        output = stock(**inputs)
        if kind == QUESTION_ANSWERING:
            outputs.append(torch.stack([output.start_logits[0], output.end_logits[0]], -1))
        else:
            outputs.append(output.logits if kind in POOLED_KINDS else output.logits[0])
    return torch.cat(outputs)


def task_settings(form: HeadForm, kind: HeadKind) -> dict[str, Any]:
    """The settings of a head that the stock class computes."""
    if kind not in POOLED_KINDS:
        return {}
    if "norm" in form.layers:
        return {"pooling": "cls", "head_dense": False}
    return {"pooling": form.pooling, "head_dense": "dense" in form.layers, "head_activation": form.activation}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_head_of_ours_gives_the_same_outputs_in_its_stock_class(
    name: str, kind: HeadKind, transformers: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    part = find_part(CheckpointFormat, name)()
    task_name, metadata, rows = TASKS[kind]
    save_model(tmp_path / "model", random_model(example(part)), tokenizer)
    loaded = load_model(tmp_path / "model")
    settings = task_settings(part.head_form(kind, part.write_config(example(part), SPECIAL)), kind)
    task = decode(Task, {"is": task_name, **settings})
    module = task.build(loaded.model.settings.shape, metadata)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
    head = FineTuned(task, module.eval(), metadata, {}, 60, task.truncate)
    save(tmp_path / "tuned", loaded.model, head, loaded, {}, {})
    tuned = load_model(tmp_path / "tuned")
    result = HFExporter(checkpoint_format=name).write(tuned, tmp_path / "out")
    assert max(result.metrics["drift_transformers"], result.metrics["drift_read_back"]) <= 2e-5
    again = Predictor.from_model(load_model(tmp_path / "out"), "cpu")
    assert name_of(again.task) == task_name
    expected = Predictor.from_model(tuned, "cpu").predict(rows).answers
    assert str(_rounded(again.predict(rows).answers)) == str(_rounded(expected))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 3) + 0.0 if isinstance(value, float) else value


def test_dropout_of_a_head_is_written_under_the_name_of_the_stock_class(
    transformers: ModuleType, tokenizer: Path, tmp_path: Path
) -> None:
    part = find_part(CheckpointFormat, "distilbert")()
    form = part.head_form(SEQUENCE_CLASSIFICATION, {})
    config = part.head_config(form, dropout=0.4, dense_bias=True, norm_bias=False)
    stock = transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(**part.write_config(example(part), SPECIAL), **config)
    )
    assert stock.dropout.p == 0.4
