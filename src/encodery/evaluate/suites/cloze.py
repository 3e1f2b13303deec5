"""Cloze questions of facts: "The capital of Chile is [MASK]." put to a masked-language model. arXiv:1909.01066

`choice` = vocabulary: the rank of the answer among all tokens; one that is no single token of this model's counts as
not found, and the share of those that are stands beside. `choice` = statements: the full sentence with the answer
against sentences with other answers of the same relation, by pseudo-log-likelihood, which compares models of any
tokenizer (arXiv:2404.04113). Nothing is trained. Shapes: N questions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.evaluate.pseudo_likelihood import mask_ranks, pseudo_log_likelihoods
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem

if TYPE_CHECKING:
    from encodery.tokens.tokenizer import Tokenizer

MASK = "[MASK]"


@dataclass(frozen=True, eq=False)
class ClozeQuestions:
    """N questions with one [MASK] each, what may stand there, and wrong answers of the same relation."""

    prompts: list[str]
    answers: list[list[str]]
    others: list[list[str]]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, kw_only=True)
class ClozeSuite(Suite):
    """`columns`: those of prompt, answers and, if there is one, relation, guessed where not told. `options`: answers
    to choose from with `choice` = statements, drawn by `seed`. `most`: questions at most of each relation, the first
    ones."""

    columns: dict[str, str] = field(default_factory=dict)
    choice: Literal["vocabulary", "statements"] = "vocabulary"
    num_options: int = 10
    max_per_relation: int | None = None
    seed: int = 0
    split: str = ""

    def __post_init__(self) -> None:
        if self.num_options < 2 or (self.max_per_relation is not None and self.max_per_relation < 1):
            raise SettingsError(
                f"options = {self.num_options}, most = {self.max_per_relation}: at least 2, and at least 1."
            )

    @property
    def main_metric(self) -> str:
        return "p@1" if self.choice == "vocabulary" else "accuracy"

    def read(self, data: Path) -> ClozeQuestions:
        rows = read_split(data, self.split)
        held = read_columns(rows, ("prompt", "answers"), self.columns, ("relation",))
        prompts: list[str] = held["prompt"]
        answers = [_answers(rows.location(number), cell) for number, cell in enumerate(held["answers"])]
        for number, prompt in enumerate(prompts):
            if prompt.count(MASK) != 1:
                raise InputError(f"{rows.location(number)}: one {MASK} is needed in '{prompt}'.")
        relations = held.get("relation", [""] * len(prompts))
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
        """Wrong answers of each question, drawn from the right ones of its relation's other questions."""
        pools: dict[str, dict[str, None]] = {}
        for relation, right in zip(relations, answers, strict=True):
            pools.setdefault(relation, {}).update(dict.fromkeys(right))
        known = {relation: list(pool) for relation, pool in pools.items()}
        found = []
        for number, (relation, right) in enumerate(zip(relations, answers, strict=True)):
            pool = known[relation]
            order = np.random.default_rng((self.seed, number)).permutation(len(pool))[
                : self.num_options - 1 + len(right)
            ]
            found.append([pool[place] for place in order if pool[place] not in right][: self.num_options - 1])
        return found

    def measure(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        return self._ranked(items, system) if self.choice == "vocabulary" else self._chosen(items, system)

    def _ranked(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        asked, answers = _single(loaded.tokenizer, items)
        open_ones = [number for number, ids in enumerate(answers) if ids]
        rank = np.full(len(items), np.inf)
        with system.counters.clock():
            if open_ones:
                rank[open_ones] = mask_ranks(loaded, [asked[n] for n in open_ones], [answers[n] for n in open_ones])
        system.counters.add(len(open_ones), sum(len(asked[n]) + 2 for n in open_ones), 0, 0)
        askable = np.isin(np.arange(len(items)), open_ones).astype(np.float64)
        return {
            "p@1": MetricValue.mean(rank <= 1),
            "p@10": MetricValue.mean(rank <= 10),
            "mrr": MetricValue.mean(1 / rank),
            "answer is one token": MetricValue(float(askable.mean())),
        }

    def _chosen(self, items: ClozeQuestions, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        texts, owners = [], []
        for number, (prompt, right, wrong) in enumerate(zip(items.prompts, items.answers, items.others, strict=True)):
            texts += [prompt.replace(MASK, answer) for answer in (right[0], *wrong)]
            owners += [number] * (1 + len(wrong))
        with system.counters.clock():
            found = pseudo_log_likelihoods(loaded, texts)
        system.counters.add(len(texts), found.computed, 0, 0)
        each, chance = [], []
        for scores in np.split(found.sums, np.flatnonzero(np.diff(owners)) + 1):
            best = scores == scores.max()
            each.append(float(best[0]) / best.sum())
            chance.append(1 / len(scores))
        return {"accuracy": MetricValue.mean(np.array(each)), "chance": MetricValue(float(np.mean(chance)))}


def _answers(where: str, cell: str | list[object]) -> list[str]:
    found = [cell] if isinstance(cell, str) else cell
    texts = [answer for answer in found if isinstance(answer, str) and answer.strip()]
    if not texts or len(texts) < len(found):
        raise InputError(f"{where}: a text or a list of texts is needed as answer, not {cell!r}.")
    return texts


def _single(tokenizer: Tokenizer, items: ClozeQuestions) -> tuple[list[np.ndarray], list[list[int]]]:
    """Ids of each question, and those of its answers that are one token where the mask stands."""
    mask = tokenizer.roles["mask"]
    if mask is None:
        raise InputError("This tokenizer has no mask token.")
    asked = tokenizer.encode_batch([prompt.replace(MASK, mask) for prompt in items.prompts], parse_special_tokens=True)
    filled = [
        (number, prompt.replace(MASK, answer))
        for number, (prompt, answers) in enumerate(zip(items.prompts, items.answers, strict=True))
        for answer in answers
    ]
    found: list[list[int]] = [[] for _ in asked]
    for (number, _), whole in zip(filled, tokenizer.encode_batch([text for _, text in filled]), strict=True):
        ids = asked[number]
        places = np.flatnonzero(ids == tokenizer.mask_id)
        if len(places) != 1 or len(whole) != len(ids):
            continue
        place = int(places[0])
        same = np.array_equal(np.delete(ids, place), np.delete(whole, place))
        if same and int(whole[place]) not in tokenizer.special_ids:
            found[number].append(int(whole[place]))
    return list(asked), found
