"""Checks of tasks, each with a small model of words on rows for every schema of the task."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encodery.base.errors import ArtifactError, InputError
from encodery.base.parts import name_of
from encodery.checks import raised_message
from encodery.finetune import artifact
from encodery.finetune.examples import Examples
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.objectives import normalised_loss, sum_counts
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.tokenizer import Tokenizer

MAX_LENGTH = 48
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COLOURS, OTHERS = ["red", "green", "blue"], ["one", "two", "six", "cat", "dog", "sun"]
WORDS = (*COLOURS, *OTHERS, "sky", "who", "O", "colour", "yes", "A", "B", "C")


def example_rows(schema: RowSchema, count: int, words: int = 6) -> dict[str, list[Any]]:
    """Return rows with a value for each role of a schema; the colour in a text determines its targets."""
    draw = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {role: [] for role in (*schema.inputs, *schema.targets)}
    for row in range(count):
        others = [str(word) for word in draw.choice(OTHERS, words)]
        colour, place = COLOURS[row % 3], int(draw.integers(words))
        tokens = [*others[:place], colour, *others[place:]]
        text = " ".join(tokens)
        values: dict[str, Any] = {
            "text": " ".join(tokens[:2]) if "text_b" in rows else text,
            "text_b": " ".join(others),
            "query": colour,
            "question": text if "choices" in rows else "who",
            "context": text,
            "label": str(row % 2) if "query" in rows else colour,
            "labels": [colour],
            "score": float(row % 3),
            "tokens": tokens,
            "tags": ["B-colour" if token in COLOURS else "O" for token in tokens],
            "spans": [{"start": text.index(colour), "end": text.index(colour) + len(colour), "label": "colour"}],
            "answers": [{"text": colour, "start": text.index(colour)}],
            "choices": COLOURS,
            "types": ["colour", "cat"],
        }
        for role, column in rows.items():
            column.append(values[role])
    return rows


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def example_model() -> LoadedModel:
    """Return a random encoder of 48 tokens and two segments, whose tokens are words."""
    import tokenizers

    pieces = {piece: number for number, piece in enumerate([*SPECIALS, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(list(SPECIALS))
    tokenizer, folder = Tokenizer(backend), Path(_folder().name)
    tokenizer.set_template()
    tokenizer.save(folder / "tokenizer")
    settings = ModelSettings(
        width=32, depth=2, heads=2, vocab_size=len(pieces), max_length=MAX_LENGTH, type_vocab_size=2
    )
    save_model(folder / "model", build_model(settings, seed=0), folder / "tokenizer")
    return load_model(folder / "model")


@dataclass(frozen=True, eq=False)
class TaskExample:
    """A task with rows of one of its schemas, their metadata, and a random module."""

    task: Task
    schema: RowSchema
    rows: dict[str, list[Any]]
    metadata: TaskMetadata
    preprocessor: Preprocessor
    module: TaskModule

    @property
    def inputs(self) -> dict[str, list[Any]]:
        """The rows without targets."""
        return {role: self.rows[role] for role in self.schema.inputs}

    @property
    def long_inputs(self) -> dict[str, list[Any]]:
        """Three rows whose last text is longer than the model takes."""
        rows = example_rows(self.schema, 3, words=90)
        return {role: rows[role] for role in self.schema.inputs}

    def examples(self, with_targets: bool = True) -> Examples:
        """Return the examples of the rows."""
        rows = self.rows if with_targets else self.inputs
        return self.task.prepare(rows, self.preprocessor, self.metadata, with_targets)

    def predictor(self) -> Predictor:
        """Return a predictor with the module, as `Predictor.from_model` makes it."""
        model, module = accelerate(example_model().model), self.module.eval()
        return Predictor(model, module, self.task, self.preprocessor, self.metadata, {}, torch.device("cpu"))


def task_examples(part: Task) -> Iterator[TaskExample]:
    """Yield an example for each schema of a task."""
    loaded = example_model()
    for schema in part.schemas:
        rows = example_rows(schema, 12)
        metadata = part.fit_metadata(rows, loaded.tokenizer)
        preprocessor = Preprocessor(loaded.tokenizer, MAX_LENGTH, True, part.truncate)
        torch.manual_seed(0)
        module = part.build(loaded.model.settings.shape, metadata)
        yield TaskExample(part, schema, rows, metadata, preprocessor, module)


def check_metadata_and_metrics(part: Task) -> None:
    """Metadata and answers are JSON; the metrics are finite, the selection metric among them."""
    for example in task_examples(part):
        table = json.loads(json.dumps(example.metadata.to_json()))
        assert TaskMetadata.from_json(table, "metadata") == example.metadata
        answers = example.predictor().predict(example.inputs).answers
        assert len(answers) == 12
        assert all("prediction" in answer for answer in json.loads(json.dumps(answers)))
        metrics = part.metrics(answers, example.rows, example.metadata)
        assert part.selection_metric in metrics
        assert all(np.isfinite(value) for value in metrics.values())


def check_gradients_and_counts(part: Task) -> None:
    """The loss has a gradient for the encoder and the module; `counts` are those of the terms of the loss."""
    for example in task_examples(part):
        examples, model = example.examples(), build_model(example_model().model.settings, seed=1)
        batch = examples.batch(np.arange(len(examples)))
        counts = example.module.counts(batch)
        terms = example.module.loss(example.module(model(batch), batch), batch)
        learned = {name: float(term.count) for name, term in terms.items() if term.weight}
        assert set(learned) == set(counts)
        assert all(np.isclose(count, float(counts[name])) for name, count in learned.items())
        torch.autograd.backward(normalised_loss(terms, sum_counts([counts])))
        weights = [*example.module.parameters(), *model.encoder.blocks.parameters()]
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in weights if p.ndim > 1)


def check_batches_do_not_matter(part: Task) -> None:
    """Outputs are the same in one batch and one by one, and the loss of a step is that of its micro-batches."""
    loaded = example_model()
    for example in task_examples(part):
        predictor, inputs = example.predictor(), example.examples(with_targets=False)
        for together, alone in zip(predictor.outputs(inputs, 10**6), predictor.outputs(inputs, 1), strict=True):
            np.testing.assert_allclose(together, alone, atol=1e-5)
        examples, module = example.examples(), example.module.eval()
        losses = []
        for cut in (len(examples), 5):
            parts = [part for part in np.split(np.arange(len(examples)), [cut]) if len(part)]
            batches = [examples.batch(part) for part in parts]
            counts = sum_counts(module.counts(batch) for batch in batches)
            with torch.no_grad():
                outputs = [module(loaded.model(batch), batch) for batch in batches]
                terms = [module.loss(output, batch) for output, batch in zip(outputs, batches, strict=True)]
                losses.append(sum(float(normalised_loss(own, counts)) for own in terms))
        assert np.isclose(losses[0], losses[1], rtol=1e-5), losses


def check_disk_changes_nothing(part: Task) -> None:
    """A model that was saved and loaded gives the same answers."""
    for example in task_examples(part):
        with tempfile.TemporaryDirectory() as name:
            _save(example, Path(name) / "model")
            again = Predictor.from_model(load_model(Path(name) / "model"), "cpu")
        assert name_of(again.task) == name_of(part)
        assert again.predict(example.inputs).answers == example.predictor().predict(example.inputs).answers


def check_altered_weights_are_refused(part: Task) -> None:
    """A head whose stored weights were changed is refused."""
    example = next(task_examples(part))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        _save(example, folder)
        file = folder / "modules" / "task.safetensors"
        stored = read_tensors(file)
        weights = [key for key in stored if key.startswith(artifact.WEIGHT_PREFIX)]
        altered = next((key for key in weights if key.endswith("weight") and stored[key].any()), weights[0])
        write_tensors(file, stored | {altered: 3 * stored[altered]})
        message = raised_message(ArtifactError, lambda: Predictor.from_model(load_model(folder, verify=False), "cpu"))
    assert "no longer computes" in message


def check_truncation(part: Task) -> None:
    """Under "right" and "left" tokens are dropped and counted; under "error" the row is named."""
    for example in task_examples(part):
        long = example.long_inputs
        for policy in ("right", "left"):
            predictions = example.predictor().predict(long, truncate=policy)
            assert (predictions.dropped_tokens > 40).all()
            assert len(predictions.answers) == 3
        message = raised_message(InputError, functools.partial(example.predictor().predict, long, "error"))
        assert message.startswith("Row 0 "), message


def check_windows_drop_nothing(part: Task) -> None:
    """Under "chunk" a long text is read completely."""
    for example in task_examples(part):
        predictions = example.predictor().predict(example.long_inputs, truncate="chunk")
        assert (predictions.dropped_tokens == 0).all()
        assert (predictions.tokens > 90).all()


def check_empty_texts(part: Task) -> None:
    """Texts may be empty, and there may be no rows."""
    values: dict[str, Any] = {"tokens": [], "choices": ["", ""], "types": ["colour"]}
    for example in task_examples(part):
        empty = {role: [values.get(role, "")] * 2 for role in example.schema.inputs}
        first, second = (answer["prediction"] for answer in example.predictor().predict(empty).answers)
        assert np.isclose(first, second) if isinstance(second, float) else first == second
        assert example.predictor().predict({role: [] for role in example.schema.inputs}).answers == []


def _save(example: TaskExample, folder: Path) -> None:
    head = FineTuned(example.task, example.module, example.metadata, {}, MAX_LENGTH, example.preprocessor.truncate)
    artifact.save(folder, example_model().model, head, example_model(), {}, {})
