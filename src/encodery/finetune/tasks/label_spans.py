"""Spans of any types a text is asked for, the types given as prompts: zero-shot entities. arXiv:2311.08526 (GLiNER)

A sequence is "[MASK] type [MASK] type … [SEP] text": every span of up to `widest` words, made of the states of its
first and last word, is held against the state of each type's mark by a dot product and a sigmoid; where spans overlap
the likelier stays. Differs from `tag`: types are read, not learnt by number, so that types nobody trained can be asked
for (`types` of a row). Differs from the paper: the model's [MASK] stands for its [ENT], so that no vocabulary changes;
types have one linear map, which the last linear one of the paper's spans is folded into; a text in windows and types in
several prompts are judged piece by piece, with nothing dropped.
Shapes: E examples (a window under a prompt), T tokens, K widths, C types of a prompt, H width, U words of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import InputError, SettingsError
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.pooled import check_dropout
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.word_spans import first_tokens, join_words, spans_of, strip_offsets, tags_of, word_spans
from encodery.finetune.preprocess import MIN_SECOND_TOKENS, Preprocessor, most_central_window, overlapping_windows
from encodery.finetune.tasks import Answer, AnswerItem, Rows, RowSchema, Task, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.windows import Truncate

ABSENT_LOGIT = -1e4  # The logit of a span or a type that is not there.
MAX_SPAN_REACH = 32_000  # Tokens a span may reach, as 16 bits hold it.


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpans(Task):
    """`widest`: words of a span. `overlap`: tokens that neighbouring windows share; spans of up to half as many are
    never cut by an edge. `together`: types of a prompt at most. `left_out`: share of the types a row does not have
    that are not asked in training, so that the model learns to read what is asked. `rare`: weight of what is a span,
    of which there are few. `dropout` before the maps."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "types"), ("spans",)),
        RowSchema(("tokens",), ("tags",)),
        RowSchema(("text",), ("spans",)),
    )
    selection_metric: ClassVar[str] = "f1"
    truncate: ClassVar[Truncate] = "chunk"

    max_span_words: int = 12
    overlap: int = 64
    types_per_prompt: int = 25
    type_dropout: float = 0.3
    positive_weight: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if self.max_span_words < 1 or self.overlap < 0 or not 1 <= self.types_per_prompt <= 100:
            raise SettingsError(
                f"widest = {self.max_span_words}, overlap = {self.overlap}, together = {self.types_per_prompt}: must be at least 1, "
                "not negative, and 1 to 100."
            )
        if not 0 <= self.type_dropout < 1 or not self.positive_weight > 0:
            raise SettingsError(
                f"left_out = {self.type_dropout}, rare = {self.positive_weight}: must lie in 0 <= left_out < 1, and be positive."
            )

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        asked = [name for names in rows.get("types", ()) for name in names]
        types = sorted({str(name) for name in asked} | {label for _, _, found in _read(rows) for *_, label in found})
        if not types:
            raise InputError("There is nothing to learn: no row has a span.")
        return {"types": types}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        collector, dropped = ExampleBuilder(preprocessor.uses_segments), []
        places: dict[str, np.ndarray] = {}
        for row, (text, where, spans) in enumerate(_read(rows, with_targets)):
            types = self._types(rows, row, metadata, {label for *_, label in spans} if with_targets else None)
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(text)
            speaker = first_tokens(strip_offsets(text, offsets), where)
            lost = 0
            for asked, room in self._prompts(types, preprocessor, places):
                found = _cut(row, len(ids), room, self.overlap, preprocessor)
                lost = max(lost, len(ids) - found[-1][1] + found[0][0])
                at_home = most_central_window(len(ids), found)[speaker] if len(ids) else speaker
                for number, (start, stop) in enumerate(found):
                    first = np.flatnonzero((speaker >= start) & (speaker < stop) & (at_home == number)).tolist()
                    prompt = np.concatenate([np.r_[preprocessor.tokenizer.mask_id, places[name]] for _, name in asked])
                    piece = preprocessor.pair(prompt, ids.astype(np.int64), start, stop)
                    marks = self._marks(len(piece.ids), first, speaker, stop, piece.text_start - start)
                    marks["type"] = np.full(len(piece.ids), -1, np.int16)
                    marks["type"][_starts([len(places[name]) + 1 for _, name in asked])] = [n for n, _ in asked]
                    if with_targets:
                        order = {name: place for place, (_, name) in enumerate(asked)}
                        marks["gold"] = _gold(marks["reach"], first, speaker, spans, order, piece.text_start - start)
                    collector.add(row, [piece], {"types": len(asked)}, marks)
            dropped.append(lost)
        return collector.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _SpansModule(shape.width, self.max_span_words, self.dropout, self.positive_weight)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        least = calibration.get("threshold", 0.5)
        read = list(_read(rows, False))
        likely: list[list[tuple[float, int, int, str]]] = [[] for _ in read]
        for row, chance, start, stop, label in self._chances(outputs, examples, rows, metadata):
            if chance > least:
                likely[row].append((chance, start, stop, label))
        return [
            self._answer(text, where, _apart(some), "tokens" in rows)
            for (text, where, _), some in zip(read, likely, strict=True)
        ]

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """The threshold with the highest F1, of those between 0.1 and 0.9."""
        grid = [round(0.1 * step, 1) for step in range(1, 10)]
        scores = []
        for least in grid:
            answers = self.decode(outputs, examples, rows, metadata, {"threshold": least})
            scores.append((self.metrics(answers, rows, metadata)["f1"], -abs(least - 0.5), least))
        return {"threshold": max(scores)[2]}

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        return micro_f1(self.answer_items(rows), self.answer_items(rows, answers))

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`: spans, in words where rows are words, else in characters."""
        words = "tokens" in rows
        if answers is None:
            return [
                {one if words else (int(where[one[0], 0]), int(where[one[1] - 1, 1]), one[2]) for one in spans}
                for _, where, spans in _read(rows)
            ]
        if words:
            return [set(spans_of(answer["prediction"])) for answer in answers]
        return [{(s["start"], s["end"], s["label"]) for s in answer["spans"]} for answer in answers]

    def _types(self, rows: Rows, row: int, known: TaskMetadata, there: set[str] | None) -> list[tuple[int, str]]:
        """What a row is asked for, numbered as in its own list; in training in any order, without some that are not
        there."""
        names = [str(name) for name in (rows["types"][row] if "types" in rows else known["types"])]
        if len(set(names)) != len(names) or not names or not all(names):
            raise InputError(f"Row {row}: its types are {names}; names are needed, each once.")
        numbered = list(enumerate(names))
        if there is None:
            return numbered
        draw = np.random.default_rng([0x59A45, row])
        kept = [one for one in numbered if one[1] in there or draw.random() >= self.type_dropout] or numbered[:1]
        return [kept[place] for place in draw.permutation(len(kept))]

    def _prompts(
        self, types: Sequence[tuple[int, str]], reader: Preprocessor, places: dict[str, np.ndarray]
    ) -> Iterator[tuple[list[tuple[int, str]], int]]:
        """The types dealt to prompts that fill no more than half a sequence, and the tokens of text behind each."""
        for _, name in types:
            if name not in places:
                places[name] = reader.tokenizer.encode(name.replace("_", " ")).astype(np.int64)
        asked: list[tuple[int, str]] = []
        size, most = 0, reader.pair_budget // 2
        for one in types:
            length = len(places[one[1]]) + 1
            if length > reader.pair_budget - min(MIN_SECOND_TOKENS, most):
                raise InputError(
                    f"Type '{one[1]}' has {length - 1} tokens: the model reads {reader.max_length} in all."
                )
            if asked and (size + length > most or len(asked) == self.types_per_prompt):
                yield asked, reader.pair_budget - size
                asked, size = [], 0
            asked, size = [*asked, one], size + length
        yield asked, reader.pair_budget - size

    def _marks(
        self, tokens: int, first: Sequence[int], speaker: np.ndarray, stop: int, move: int
    ) -> dict[str, np.ndarray]:
        """`unit` (T,): the word each token begins, -1 for none; `reach` (T, K): how many tokens farther the last word
        of a span of each width begins, -1 where there is none."""
        unit, reach = np.full(tokens, -1, np.int32), np.full((tokens, self.max_span_words), -1, np.int16)
        for word in first:
            at = int(speaker[word])
            if unit[at + move] >= 0:
                continue  # Two words in one piece: the first has it.
            unit[at + move] = word
            for width, last in enumerate(speaker[word : word + self.max_span_words].tolist()):
                if last < 0 or last >= stop or last - at > MAX_SPAN_REACH:
                    break
                reach[at + move, width] = last - at
        return {"unit": unit, "reach": reach}

    def _chances(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, known: TaskMetadata
    ) -> Iterator[tuple[int, float, int, int, str]]:
        """Row, probability, first word, the word behind the last, and type of every span above 0.1."""
        for number, found in enumerate(outputs):
            row, types = int(examples.row[number]), examples.token_mark("type", number)
            names = known["types"] if "types" not in rows else [str(name) for name in rows["types"][row]]
            asked, unit = types[types >= 0], examples.token_mark("unit", number)
            logits = found.reshape(len(found), self.max_span_words, -1)[:, :, : len(asked)].astype(np.float64)
            chances = 1 / (1 + np.exp(-np.maximum(logits, -500)))
            for at, width, place in np.argwhere((chances > 0.1) & (unit >= 0)[:, None, None]).tolist():
                start = int(unit[at])
                yield row, float(chances[at, width, place]), start, start + width + 1, names[asked[place]]

    def _answer(
        self, text: str, where: np.ndarray, found: Sequence[tuple[float, int, int, str]], words: bool
    ) -> Answer:
        spans = [
            {
                "start": int(where[start, 0]),
                "end": int(where[stop - 1, 1]),
                "label": label,
                "text": text[where[start, 0] : where[stop - 1, 1]],
                "probability": chance,
            }
            for chance, start, stop, label in found
        ]
        tags = tags_of([(start, stop, label) for _, start, stop, label in found], len(where)) if words else None
        return {"prediction": spans if tags is None else tags, "spans": spans}


class _SpansModule(TaskModule):
    granularity = "token"

    def __init__(self, width: int, widest: int, dropout: float, rare: float) -> None:
        super().__init__()
        self.widest, self.rare = widest, rare
        self.drop = nn.Dropout(dropout)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.kind = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.tensor(-3.0))  # Most spans are none of a type.
        for layer in (self.first, self.last, self.kind):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """(T, K · C) for every token as the first of a span: its widths, and in each the types of the widest prompt."""
        hidden = self.drop(output.hidden)
        types, reach = _asked(batch, self.widest)
        kinds, present = self._kinds(hidden, types, batch)
        logits = hidden.new_full((batch.tokens, self.widest, kinds.shape[1]), ABSENT_LOGIT, dtype=torch.float32)
        at, width = (reach >= 0).nonzero(as_tuple=True)
        spans = torch.relu(self.first(hidden)[at] + self.last(hidden)[at + reach[at, width].long()])
        sequence = batch.layout.sequence_ids[at]
        # Sequence by sequence: held against the types all at once, spans would fill the memory.
        parts = torch.split(spans, torch.bincount(sequence, minlength=len(batch)).tolist())
        near = torch.cat([part @ kind.T for part, kind in zip(parts, kinds, strict=True)]).float()
        near = near / hidden.shape[1] ** 0.5 + self.bias
        found: Tensor = logits.index_put((at, width), near.masked_fill(~present[sequence], ABSENT_LOGIT))
        return found.flatten(1)

    def _kinds(self, hidden: Tensor, types: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The vector of each type of each sequence (S, C, H), and which there are (S, C)."""
        at = (types >= 0).nonzero()[:, 0]
        sequence = batch.layout.sequence_ids[at]
        counts = torch.bincount(sequence, minlength=len(batch))
        place = torch.arange(len(at), device=at.device) - (counts.cumsum(0) - counts)[sequence]
        wide = int(counts.max())
        vectors = self.kind(hidden[at])
        kinds = vectors.new_zeros(len(batch), wide, vectors.shape[-1]).index_put((sequence, place), vectors)
        return kinds, torch.arange(wide, device=at.device) < counts[:, None]

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"spans": ((batch.extra["reach"] >= 0).sum(1) * batch.extra["types"][batch.layout.sequence_ids]).sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        reach, gold = batch.extra["reach"], batch.extra["gold"]
        logits = predicted.view(*reach.shape, -1)
        at, width = (reach >= 0).nonzero(as_tuple=True)
        chosen = logits[at, width]
        truth = torch.zeros_like(chosen)
        right = gold[at, width].long()
        some = right >= 0
        truth[some.nonzero()[:, 0], right[some]] = 1.0
        there = (
            torch.arange(chosen.shape[1], device=at.device)
            < batch.extra["types"][batch.layout.sequence_ids[at]][:, None]
        )
        each = nn.functional.binary_cross_entropy_with_logits(
            chosen, truth, reduction="none", pos_weight=chosen.new_tensor(self.rare)
        )
        return {"spans": LossTerm((each * there).sum(), self.counts(batch)["spans"])}


def _asked(batch: Batch, widest: int) -> tuple[Tensor, Tensor]:
    """`type` and `reach` of a batch; where it names neither, a sequence's first token is the type, all are words."""
    if "reach" in batch.extra:
        return batch.extra["type"], batch.extra["reach"]
    position, sequence = batch.layout.positions, batch.layout.sequence_ids
    left = batch.cu_seqlens.diff().long()[sequence] - position
    widths = torch.arange(widest, device=position.device).expand(batch.tokens, widest)
    return (position == 0).long() - 1, torch.where(widths < left[:, None], widths, -1)


def _read(rows: Rows, targets: bool = True) -> Iterator[tuple[str, np.ndarray, list[tuple[int, int, str]]]]:
    """Each row's text, where its words stand (U, 2), and its spans in words."""
    if "tokens" in rows:
        for row, tokens in enumerate(rows["tokens"]):
            tags = [str(tag) for tag in rows["tags"][row]] if targets else []
            if targets and len(tags) != len(tokens):
                raise InputError(f"Row {row}: has {len(tokens)} words and {len(tags)} tags.")
            yield *join_words([str(word) for word in tokens]), spans_of(tags)
        return
    for row, text in enumerate(rows["text"]):
        where = word_spans(text)
        found = []
        for span in rows["spans"][row] if targets else ():
            inside = np.flatnonzero((where[:, 1] > span["start"]) & (where[:, 0] < span["end"]))
            if not 0 <= span["start"] < span["end"] <= len(text) or not len(inside):
                raise InputError(f"Row {row}: there is no text at characters {span['start']} to {span['end']}.")
            found.append((int(inside[0]), int(inside[-1]) + 1, str(span["label"])))
        yield text, where, found


def _cut(row: int, tokens: int, room: int, overlap: int, reader: Preprocessor) -> list[tuple[int, int]]:
    """Windows of a text by the policy."""
    if tokens <= room:
        return [(0, tokens)]
    if reader.truncate == "chunk":
        return overlapping_windows(tokens, room, overlap)
    reader.check_fits(row, tokens, room)
    return [(tokens - room, tokens)] if reader.truncate == "left" else [(0, room)]


def _starts(lengths: Sequence[int]) -> np.ndarray:
    """Where each type's mark stands, behind the sequence's first token."""
    found: np.ndarray = np.cumsum([1, *lengths[:-1]])
    return found


def _gold(
    reach: np.ndarray,
    first: Sequence[int],
    speaker: np.ndarray,
    spans: Sequence[tuple[int, int, str]],
    order: Mapping[str, int],
    move: int,
) -> np.ndarray:
    """(T, K) the place of the type that a span has in the prompt, -1 for none."""
    gold, here = np.full(reach.shape, -1, np.int8), set(first)
    for start, stop, label in spans:
        at, width = int(speaker[start]) + move, stop - start - 1
        if start in here and label in order and width < reach.shape[1] and reach[at, width] >= 0:
            gold[at, width] = order[label]
    return gold


def _apart(found: list[tuple[float, int, int, str]]) -> list[tuple[float, int, int, str]]:
    """Those that do not overlap, the likelier first; in the order of the text."""
    taken: set[int] = set()
    kept = []
    for one in sorted(found, key=lambda one: (-one[0], one[1], one[2], one[3])):
        words = range(one[1], one[2])
        if taken.isdisjoint(words):
            taken.update(words)
            kept.append(one)
    return sorted(kept, key=lambda one: one[1])
