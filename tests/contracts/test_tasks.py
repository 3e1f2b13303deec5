"""Every task: gradients reach encoder and head, a batch is as its examples one by one, disk changes nothing, texts that
are too long go by the policy, empty ones are legal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, InputError
from encodery.base.parts import find_part, name_of, part_names
from encodery.finetune import artifact
from encodery.finetune.examples import Examples
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.objectives import normalised_loss, sum_counts
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "six",
    "cat",
    "dog",
    "sun",
    "sky",
    "who",
    "O",
    "colour",
    "yes",
    "A",
    "B",
    "C",
]
COLOURS = ["red", "green", "blue"]
LONGEST = 40
TASKS = part_names(Task)  # type: ignore[type-abstract]


def rows_of(form: RowSchema, count: int, words: int = 6, seed: int = 0) -> dict[str, list[Any]]:
    """Rows with a value for each role of a form: what there is to say of a text is the colour in it."""
    draw = np.random.default_rng(seed)
    found: dict[str, list[Any]] = {role: [] for role in (*form.inputs, *form.targets)}
    for row in range(count):
        others = [str(w) for w in draw.choice(["one", "two", "six", "cat", "dog", "sun"], words)]
        colour, place = COLOURS[row % 3], int(draw.integers(words))
        tokens = [*others[:place], colour, *others[place:]]
        text = " ".join(tokens)
        values: dict[str, Any] = {
            "text": text, "text_b": " ".join(others), "query": colour, "question": "who", "context": text,
            "label": "1" if "query" in found and row % 2 else "0" if "query" in found else colour,
            "labels": [colour], "score": float(row % 3), "tokens": tokens,
            "tags": ["B-colour" if token in COLOURS else "O" for token in tokens],
            "spans": [{"start": text.index(colour), "end": text.index(colour) + len(colour), "label": "colour"}],
            "answers": [{"text": colour, "start": text.index(colour)}], "choices": COLOURS,
            "types": ["colour", "cat"],
        }  # fmt: skip
        for role, column in found.items():
            column.append(values[role])
    return found


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> LoadedModel:
    """A random encoder of 40 tokens and two segments, whose tokens are words."""
    folder = tmp_path_factory.mktemp("encoder")
    return load_model(small_model(folder, word_tokenizer(WORDS), max_length=LONGEST, type_vocab_size=2))


@dataclasses.dataclass
class Case:
    """A task with rows, what it knows of them, and its module."""

    task: Task
    form: RowSchema
    rows: dict[str, list[Any]]
    known: TaskMetadata
    reader: Preprocessor
    module: TaskModule

    @property
    def inputs(self) -> dict[str, list[Any]]:
        return {role: self.rows[role] for role in self.form.inputs}

    def examples(self, targets: bool = True) -> Examples:
        return self.task.prepare(self.rows if targets else self.inputs, self.reader, self.known, targets)


def _cases() -> list[tuple[str, int]]:
    return [(name, number) for name in TASKS for number in range(len(find_part(Task, name).schemas))]


@pytest.fixture(params=_cases(), ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, loaded: LoadedModel) -> Case:
    name, number = request.param
    task = find_part(Task, name)()  # type: ignore[type-abstract]
    form = task.schemas[number]
    rows = rows_of(form, 12)
    known = task.fit_metadata(rows, loaded.tokenizer)
    reader = Preprocessor(loaded.tokenizer, LONGEST, True, task.truncate)
    torch.manual_seed(0)
    return Case(task, form, rows, known, reader, task.build(loaded.model.settings.shape, known))


def predictor(case: Case, loaded: LoadedModel) -> Predictor:
    model, module = accelerate(loaded.model), case.module.eval()  # As `Predictor.of` has it.
    return Predictor(model, module, case.task, case.reader, case.known, {}, torch.device("cpu"))


def test_what_a_task_knows_is_json_and_its_goal_is_among_its_figures(case: Case, loaded: LoadedModel) -> None:
    import json

    assert TaskMetadata.from_json(json.loads(json.dumps(case.known.to_json())), "known") == case.known
    answers = predictor(case, loaded).predict(case.inputs).answers
    assert len(answers) == 12
    assert all("prediction" in answer for answer in json.loads(json.dumps(answers)))
    figures = case.task.metrics(answers, case.rows, case.known)
    assert case.task.selection_metric in figures
    assert all(np.isfinite(value) for value in figures.values())


def test_gradients_reach_encoder_and_head_and_counts_are_told_before(case: Case, loaded: LoadedModel) -> None:
    examples = case.examples()
    batch = examples.batch(np.arange(len(examples)))
    model = build_model(loaded.model.settings, seed=1)
    counts = case.module.counts(batch)
    terms = case.module.loss(case.module(model(batch), batch), batch)
    learned = {name: term for name, term in terms.items() if term.weight}
    assert set(learned) == set(counts)
    for name, term in learned.items():
        assert float(term.count) == pytest.approx(float(counts[name]))
    normalised_loss(terms, sum_counts([counts])).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in case.module.parameters() if p.ndim > 1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.blocks.parameters() if p.ndim > 1)


def test_a_batch_gives_what_its_examples_give_one_by_one(case: Case, loaded: LoadedModel) -> None:
    found = predictor(case, loaded)
    examples = case.examples(targets=False)
    together, apart = found.outputs(examples, 10**6), found.outputs(examples, 1)
    assert len(together) == len(examples)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_loss_of_a_step_is_that_of_its_micro_batches(case: Case, loaded: LoadedModel) -> None:
    examples, module = case.examples(), case.module.eval()
    everything = np.arange(len(examples))

    def loss(parts: list[np.ndarray]) -> float:
        batches = [examples.batch(part) for part in parts]
        counts = sum_counts(module.counts(batch) for batch in batches)
        with torch.no_grad():
            return sum(float(normalised_loss(module.loss(module(loaded.model(b), b), b), counts)) for b in batches)

    assert loss([everything]) == pytest.approx(loss([everything[:5], everything[5:]]), rel=1e-5)


def test_disk_changes_nothing_and_a_head_that_was_altered_is_refused(
    case: Case, loaded: LoadedModel, tmp_path: Path
) -> None:
    made = FineTuned(case.task, case.module, case.known, {}, LONGEST, case.reader.truncate)
    artifact.save(tmp_path / "model", loaded.model, made, loaded, {}, {})
    before = predictor(case, loaded).predict(case.inputs).answers
    again = Predictor.from_model(load_model(tmp_path / "model"), "cpu")
    assert name_of(again.task) == name_of(case.task)
    assert again.predict(case.inputs).answers == before

    file = tmp_path / "model" / "modules" / "task.safetensors"
    kept = read_tensors(file)
    learnt = [name for name in kept if name.startswith("weights.")]
    if not learnt:
        return  # The model's own head answers, whose outputs the model's artifact holds.
    name = next((name for name in learnt if name.endswith("weight") and kept[name].any()), learnt[0])
    write_tensors(file, kept | {name: 3 * kept[name]})
    with pytest.raises(ArtifactError, match=r"no longer computes"):
        Predictor.from_model(load_model(tmp_path / "model", verify=False), "cpu")


def test_long_texts_go_by_the_policy(case: Case, loaded: LoadedModel) -> None:
    if not {"text", "context", "tokens"} & set(case.form.inputs):
        pytest.skip("nothing in these rows is long")
    long = {role: column for role, column in rows_of(case.form, 3, words=90).items() if role in case.form.inputs}
    for policy in ("right", "left"):
        found = predictor(case, loaded).predict(long, truncate=policy)
        assert (found.dropped_tokens > 40).all()
        assert len(found.answers) == 3
    with pytest.raises(InputError, match=r"Row 0 .*tokens"):
        predictor(case, loaded).predict(long, truncate="error")


def test_windows_drop_nothing(case: Case, loaded: LoadedModel) -> None:
    if "choices" in case.form.inputs or "text_b" in case.form.inputs:
        pytest.skip("two long texts do not fit into one window")
    long = {role: column for role, column in rows_of(case.form, 3, words=90).items() if role in case.form.inputs}
    found = predictor(case, loaded).predict(long, truncate="chunk")
    assert (found.dropped_tokens == 0).all()
    assert (found.tokens > 90).all()


def test_empty_texts_are_legal(case: Case, loaded: LoadedModel) -> None:
    kinds: dict[str, Any] = {"tokens": [], "choices": ["", ""], "types": ["colour"]}
    empty = {role: [kinds.get(role, "")] * 2 for role in case.form.inputs}
    found = predictor(case, loaded).predict(empty)
    assert len(found.answers) == 2
    one, other = (answer["prediction"] for answer in found.answers)
    assert one == (pytest.approx(other) if isinstance(other, float) else other)
    assert predictor(case, loaded).predict({role: [] for role in case.form.inputs}).answers == []
