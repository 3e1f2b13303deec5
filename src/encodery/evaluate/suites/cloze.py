"""Cloze questions about facts ("The capital of Chile is [MASK].") for masked language models. arXiv:1909.01066

`choice=vocabulary`: the rank of the answer among all tokens. An answer that is not a single token counts as wrong, and
the fraction of single-token answers is reported. `choice=statements`: the sentence with the answer is compared with
sentences with other answers of the same relation by pseudo-log-likelihood, which allows models with different
tokenizers (arXiv:2404.04113). Nothing is trained. Shapes: N questions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.base.settings import check_at_least
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.pseudo_likelihood import mask_ranks, pseudo_log_likelihoods
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem

if TYPE_CHECKING:
    from encodery.tokens.tokenizer import Tokenizer

MASK = "[MASK]"


@dataclass(frozen=True, eq=False)
class ClozeQuestions:
    """N questions with one [MASK] each, their correct answers, and incorrect answers of the same relation."""

    prompts: list[str]
    answers: list[list[str]]
    others: list[list[str]]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, kw_only=True)
class ClozeSuite(Suite):
    """Use it to evaluate the factual knowledge of a masked language model.

    Attributes:
        columns: role -> column, for prompt, answers and relation; others are assigned by name.
        choice: "vocabulary" ranks all tokens, "statements" compares sentences with `num_options` answers.
        num_options: the number of answers of a question, drawn with `seed`.
        max_per_relation: the maximum number of questions of a relation; the first ones are used.
    """

    columns: dict[str, str] = field(default_factory=dict)
    choice: Literal["vocabulary", "statements"] = "vocabulary"
    num_options: int = 10
    max_per_relation: int | None = None
    seed: int = 0
    split: str = ""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "num_options")
        check_at_least(self, 1, "max_per_relation")

    @property
    def main_metric(self) -> str:
        return "p@1" if self.choice == "vocabulary" else "accuracy"

    def read(self, data: Path) -> ClozeQuestions:
        rows = read_split(data, self.split)
        columns = read_columns(rows, ("prompt", "answers"), self.columns, ("relation",))
        prompts: list[str] = columns["prompt"]
        answers = [_answers(rows.location(number), cell) for number, cell in enumerate(columns["answers"])]
        for number, prompt in enumerate(prompts):
            if prompt.count(MASK) != 1:
                raise InputError(f"{rows.location(number)}: one {MASK} is needed in '{prompt}'.")
        relations = columns.get("relation", [""] * len(prompts))
        others = self._others(relations, answers) if self.choice == "statements" else [[] for _ in prompts]
        seen: Counter[str] = Counter()
        kept = []
        for number, relation in enumerate(relations):
            seen[relation] += 1
            if self.max_per_relation is None or seen[relation] <= self.max_per_relation:
                kept.append(number)
        if self.choice == "statements":
            kept = [number for number in kept if others[number]]
            if not kept:
                raise EmptyInput(f"{data}: no relation has two answers to choose from.")
        return ClozeQuestions([prompts[n] for n in kept], [answers[n] for n in kept], [others[n] for n in kept])

    def _others(self, relations: list[str], answers: list[list[str]]) -> list[list[str]]:
        """Return incorrect answers of each question, drawn from the correct answers of other questions of its
        relation."""
        pools: dict[str, dict[str, None]] = {}
        for relation, correct in zip(relations, answers, strict=True):
            pools.setdefault(relation, {}).update(dict.fromkeys(correct))
        known = {relation: list(pool) for relation, pool in pools.items()}
        others = []
        for number, (relation, correct) in enumerate(zip(relations, answers, strict=True)):
            pool = known[relation]
            order = np.random.default_rng((self.seed, number)).permutation(len(pool))[
                : self.num_options - 1 + len(correct)
            ]
            others.append([pool[index] for index in order if pool[index] not in correct][: self.num_options - 1])
        return others

    def measure(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        return self._ranked(items, system) if self.choice == "vocabulary" else self._chosen(items, system)

    def _ranked(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        questions, answers = _single_tokens(loaded.tokenizer, items)
        single = [number for number, ids in enumerate(answers) if ids]
        rank = np.full(len(items), np.inf)
        with system.counters.clock():
            if single:
                rank[single] = mask_ranks(loaded, [questions[n] for n in single], [answers[n] for n in single])
        system.counters.add(len(single), sum(len(questions[n]) + 2 for n in single), 0, 0)
        is_single = np.isin(np.arange(len(items)), single).astype(np.float64)
        return {
            "p@1": MetricValue.mean(rank <= 1),
            "p@10": MetricValue.mean(rank <= 10),
            "mrr": MetricValue.mean(1 / rank),
            "answer is one token": MetricValue(float(is_single.mean())),
        }

    def _chosen(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        texts, owners = [], []
        for number, (prompt, correct, wrong) in enumerate(zip(items.prompts, items.answers, items.others, strict=True)):
            texts += [prompt.replace(MASK, answer) for answer in (correct[0], *wrong)]
            owners += [number] * (1 + len(wrong))
        with system.counters.clock():
            scored = pseudo_log_likelihoods(loaded, texts)
        system.counters.add(len(texts), scored.computed, 0, 0)
        accuracy, chance = [], []
        for scores in np.split(scored.sums, np.flatnonzero(np.diff(owners)) + 1):
            best = scores == scores.max()
            accuracy.append(float(best[0]) / best.sum())
            chance.append(1 / len(scores))
        return {"accuracy": MetricValue.mean(np.array(accuracy)), "chance": MetricValue(float(np.mean(chance)))}


def _answers(location: str, cell: str | list[object]) -> list[str]:
    answers = [cell] if isinstance(cell, str) else cell
    texts = [answer for answer in answers if isinstance(answer, str) and answer.strip()]
    if not texts or len(texts) < len(answers):
        raise InputError(f"{location}: the answer must be a text or a list of texts, not {cell!r}.")
    return texts


def _single_tokens(tokenizer: Tokenizer, items: ClozeQuestions) -> tuple[list[np.ndarray], list[list[int]]]:
    """Return the ids of each question, and the ids of its answers that are a single token at the mask."""
    mask = tokenizer.roles["mask"]
    if mask is None:
        raise InputError("This tokenizer has no mask token.")
    questions = tokenizer.encode_batch(
        [prompt.replace(MASK, mask) for prompt in items.prompts], parse_special_tokens=True
    )
    filled = [
        (number, prompt.replace(MASK, answer))
        for number, (prompt, answers) in enumerate(zip(items.prompts, items.answers, strict=True))
        for answer in answers
    ]
    singles: list[list[int]] = [[] for _ in questions]
    for (number, _), complete in zip(filled, tokenizer.encode_batch([text for _, text in filled]), strict=True):
        ids = questions[number]
        positions = np.flatnonzero(ids == tokenizer.mask_id)
        if len(positions) != 1 or len(complete) != len(ids):
            continue
        position = int(positions[0])
        same = np.array_equal(np.delete(ids, position), np.delete(complete, position))
        if same and int(complete[position]) not in tokenizer.special_ids:
            singles[number].append(int(complete[position]))
    return list(questions), singles
