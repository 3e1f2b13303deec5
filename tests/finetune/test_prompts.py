"""Tasks with prompts: the prompt is never truncated, its words are those of the labels, a few steps train the task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.finetune.heads.cloze_prompt import ClozePrompt
from encodery.finetune.planning import plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.cloze import ClozeClassification
from encodery.finetune.tasks.instruct import InstructClassification
from encodery.finetune.tasks.label_match import LabelMatching
from encodery.model.init.normal import NormalInit
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.objectives import normalised_loss, sum_counts
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.launch import start

Rows = dict[str, list[Any]]
LETTERS = InstructClassification(question="", label_descriptions={"red": "cat", "green": "dog", "blue": "sun"})


def trained(task: Task, rows: Rows, loaded: LoadedModel, steps: int) -> Predictor:
    """A model and the task's module after some steps of 16 examples."""
    reader = Preprocessor(loaded.tokenizer, loaded.model.settings.max_length, True, task.truncate)
    known = task.fit_metadata(rows, loaded.tokenizer)
    examples = task.prepare(rows, reader, known, True)
    # Spread out further than usual, so that so small a model attends to words from the beginning.
    settings = dataclasses.replace(loaded.model.settings, init=NormalInit(std=0.1))
    model = build_model(settings, seed=0)
    torch.manual_seed(0)
    module = task.build(model.settings.shape, known)
    optim = torch.optim.AdamW([*model.parameters(), *module.parameters()], lr=3e-3)
    draw = np.random.default_rng(0)
    for _ in range(steps):
        batch = examples.batch(draw.integers(len(examples), size=16))
        terms = module.loss(module(model(batch), batch), batch)
        optim.zero_grad()
        normalised_loss(terms, sum_counts([module.counts(batch)])).backward()  # type: ignore[no-untyped-call]
        optim.step()
    return Predictor(model.eval(), module.eval(), task, reader, known, {}, torch.device("cpu"))


@pytest.mark.parametrize(
    "task",
    [ClozeClassification(), LabelMatching(), LabelMatching(labels_per_text=2)],
    ids=["cloze", "all labels", "two labels"],
)
def test_a_few_steps_learn_to_say_the_label(task: Task, loaded: LoadedModel, rows: Callable[..., Rows]) -> None:
    made = trained(task, rows("classify", 60), loaded, steps=80)
    test = rows("classify", 60, seed=1)
    answers = made.predict({"text": test["text"]}).answers
    assert task.metrics(answers, test, made.metadata)["accuracy"] > 0.8
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)


def test_letters_are_learned_and_pairs_are_read(lettered: LoadedModel, rows: Callable[..., Rows]) -> None:
    made = trained(LETTERS, rows("classify", 60), lettered, steps=80)
    test = rows("classify", 60, seed=1)
    assert LETTERS.metrics(made.predict({"text": test["text"]}).answers, test, made.metadata)["accuracy"] > 0.8

    pairs = {**test, "text_b": test["text"]}
    assert LETTERS.fit_metadata(pairs, lettered.tokenizer).patterns == (
        " A: sun. B: dog. C: cat. Text: {text} Second text: {text_b} Answer: {mask}",
    )


@pytest.fixture(scope="module")
def lettered(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> LoadedModel:
    """An encoder of 48 tokens whose words have the letters A to C among them."""
    words = [*"ABC:.", "Text", "Answer", "red", "green", "blue", "one", "two", "six", "cat", "dog", "sun", "sky"]
    return load_model(small_model(tmp_path_factory.mktemp("lettered"), word_tokenizer(words), max_length=48))


def test_a_prompt_is_never_cut(loaded: LoadedModel) -> None:
    prompt = ClozePrompt.parse("who {text} . {mask} who", ["text"])
    text = "one two six cat dog sun sky " * 6
    for policy, first, last in (("right", "one", "sun"), ("left", "six", "sky")):
        [[(piece, gap)]], [lost] = prompt.fill({"text": [text]}, Preprocessor(loaded.tokenizer, 24, True, policy))
        words = [loaded.tokenizer.piece(int(i)) for i in piece.ids]
        assert len(words) == 24
        assert words[:2] == ["[CLS]", "who"]
        assert words[-4:] == [".", "[MASK]", "who", "[SEP]"]
        assert gap == 21
        assert lost == 42 - 18
        assert words[2] == first or policy == "left"
        assert words[-5] == last or policy == "right"
    [filled], [lost] = prompt.fill({"text": [text]}, Preprocessor(loaded.tokenizer, 24, True, "chunk"))
    assert lost == 0
    assert sum(len(piece.ids) - 6 for piece, _ in filled) == 42
    assert all(piece.ids[gap] == loaded.tokenizer.mask_id for piece, gap in filled)
    with pytest.raises(InputError, match=r"Row 0 has 42 tokens; the model takes 18"):
        prompt.fill({"text": [text]}, Preprocessor(loaded.tokenizer, 24, True, "error"))


def test_of_two_texts_the_longer_is_cut_first(loaded: LoadedModel) -> None:
    prompt = ClozePrompt.parse("{text} {mask} {text_b}", ["text", "text_b"])
    reader = Preprocessor(loaded.tokenizer, 16, True, "right")
    [[(piece, gap)]], [lost] = prompt.fill({"text": ["one two"], "text_b": ["six " * 30]}, reader)
    assert (gap, lost, len(piece.ids)) == (3, 2 + 30 - 13, 16)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{text} {mask} {txt}", r"\{txt\} is not one of \{text\}, \{mask\}\. Did you mean 'text'"),
        ("{text}", r"has \{mask\} 0 times, not once"),
        ("{text} {text} {mask}", r"has \{text\} 2 times"),
        ("{text {mask}", r"brace"),
    ],
)
def test_invalid_patterns_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ClozePrompt.parse(pattern, ["text"])


def test_braces_of_a_prompt_are_escaped_and_spaces_are_detected() -> None:
    prompt = ClozePrompt.parse("{{a}} {text}: {mask}", ["text"])
    assert prompt.literals == ("{a} ", ": ", "")
    assert prompt.space_before_gap
    assert not ClozePrompt.parse("{mask}: {text}", ["text"]).space_before_gap


def test_words_of_labels(loaded: LoadedModel, rows: Callable[..., Rows]) -> None:
    data = {"text": ["one", "two", "six"], "label": ["0", "1", "1"]}
    task = ClozeClassification(patterns=("{text} {mask}",), verbalizer={"0": "red", "1": "green, blues", "2": "sky"})
    known = task.fit_metadata(data, loaded.tokenizer)
    pieces = [[loaded.tokenizer.piece(i) for i in some] for some in known.verbalizer_ids[0]]
    assert known.labels == ("0", "1", "2")
    assert pieces == [["red"], ["green", "blue", "##s"], ["sky"]]
    with pytest.raises(SettingsError, match=r"'0' and '1' have the same word"):
        ClozeClassification(verbalizer={"0": "red", "1": "red"}).fit_metadata(data, loaded.tokenizer)
    with pytest.raises(SettingsError, match=r"'purple' cannot be written with this vocabulary"):
        ClozeClassification(verbalizer={"0": "red", "1": "purple"}).fit_metadata(data, loaded.tokenizer)
    with pytest.raises(InputError, match=r"all rows have the label 'red'"):
        ClozeClassification().fit_metadata({"text": ["one"], "label": ["red"]}, loaded.tokenizer)
    with pytest.raises(SettingsError, match=r"label_descriptions\.gren: no row has this label\. Did you mean 'green'"):
        LabelMatching(label_descriptions={"gren": "x"}).fit_labels(rows("classify", 9))


def test_letters_that_the_vocabulary_lacks(loaded: LoadedModel) -> None:
    with pytest.raises(SettingsError, match=r"There are 2 labels, but only 0 letters"):
        InstructClassification().fit_metadata({"text": ["one", "two"], "label": ["red", "sky"]}, loaded.tokenizer)


def test_the_head_speaks_the_logits_of_the_labels_words(loaded: LoadedModel) -> None:
    """Zero training: what the task says is what the masked-language-model head says in the gap."""
    task = ClozeClassification(patterns=("{text} {mask}",), verbalizer={"red": "red", "sky": "sky, blue"})
    data = {"text": ["one two", "cat"], "label": ["red", "sky"]}
    known, tokenizer = task.fit_metadata(data, loaded.tokenizer), loaded.tokenizer
    reader = Preprocessor(tokenizer, 24, True, "right")
    module = task.build(loaded.model.settings.shape, known)
    examples = task.prepare(data, reader, known, False)
    batch = examples.batch(np.arange(2))
    with torch.no_grad():
        output = loaded.model.eval()(batch)
        logits = module(output, batch)
        rows = batch.ids == tokenizer.mask_id
        every = loaded.model.mlm_head(output.hidden[rows], loaded.model.encoder)
    red, sky, blue = (int(tokenizer.encode(word)[0]) for word in ("red", "sky", "blue"))
    expected = torch.stack([every[:, red], (every[:, sky] + every[:, blue]) / 2], 1)
    torch.testing.assert_close(logits, expected)


def test_an_encoder_without_a_head_cannot_speak(loaded: LoadedModel, tmp_path: Path) -> None:
    mute = build_model(dataclasses.replace(loaded.model.settings, head=None))
    data = {"text": ["one", "two"], "label": ["red", "sky"]}
    task = ClozeClassification()
    known = task.fit_metadata(data, loaded.tokenizer)
    examples = task.prepare(data, Preprocessor(loaded.tokenizer, 24, True, "right"), known, False)
    batch = examples.batch(np.arange(2))
    with pytest.raises(SettingsError, match="no masked-language-model head"):
        task.build(mute.settings.shape, known)(mute(batch), batch)


@pytest.mark.parametrize("task", ["cloze", "label_match", "label_spans"])
def test_runs_come_back_from_disk_and_the_head_learns_where_it_answers(
    task: str, loaded: LoadedModel, rows: Callable[..., Rows], tmp_path: Path
) -> None:
    kind = "tag" if task == "label_spans" else "classify"
    (tmp_path / "rows").mkdir()
    for seed, split in enumerate(("train", "dev", "test")):
        data = rows(kind, 24, seed)
        lines = [json.dumps(dict(zip(data, values, strict=True))) for values in zip(*data.values(), strict=True)]
        (tmp_path / "rows" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    train = {"threads": 1, "precision": "fp32", "evals": 1}
    made = plan_finetuning(task, tmp_path / "rows", loaded.path, {"epochs": 2, "optim": {"lr": 3e-3}, "train": train})
    result = start(made.recipe, tmp_path / "run")
    assert result.finished
    again = load_model(tmp_path / "run")
    predictor = dataclasses.replace(
        Predictor.from_model(again, "cpu"), model=again.model
    )  # Run as the run itself ran it.
    answers = predictor.predict(data).answers
    metrics = predictor.task.metrics(answers, data, predictor.metadata)
    assert metrics == pytest.approx({name: result.metrics[f"test_{name}"] for name in metrics})
    before, after = loaded.model.heads.state_dict(), again.model.heads.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert bool(changed) == (task == "cloze")
