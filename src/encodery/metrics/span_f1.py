"""F1 of spans in tagged tokens, as in seqeval and conlleval: the type and both ends of a span must be correct.

Reads IO, BIO, IOB and BIOES tags: an I or E that does not continue a span starts one, as does a change of type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics import InputKind, Metric

Span = tuple[int, str, int, int]


@dataclass(frozen=True, kw_only=True)
class SpanF1(Metric):
    """Tags of N sentences, each a list such as ["B-PER", "I-PER", "O"], against tags of the same tokens.

    `average`: "micro" gives every span the same weight, "macro" every type. The value is 1 if neither side has a span.
    """

    input_kind: ClassVar[InputKind] = "tags"
    average: Literal["micro", "macro"] = "micro"

    def score(self, truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
        if len(truth) != len(predicted):
            raise InputError(f"span_f1: there are {len(truth)} sentences but predictions for {len(predicted)}.")
        if not len(truth):
            raise EmptyInput("span_f1: there are no sentences.")
        for number, (left, right) in enumerate(zip(truth, predicted, strict=True)):
            if len(left) != len(right):
                raise InputError(f"span_f1: sentence {number} has {len(left)} tags, but its prediction {len(right)}.")
        true = {span for number, tags in enumerate(truth) for span in _spans(number, tags)}
        guessed = {span for number, tags in enumerate(predicted) for span in _spans(number, tags)}
        if self.average == "micro" or not true | guessed:
            return _f1(true, guessed)
        types = sorted({span[1] for span in true | guessed})
        return float(np.mean([_f1(_of_type(true, one), _of_type(guessed, one)) for one in types]))


def _f1(true: set[Span], guessed: set[Span]) -> float:
    return 2 * len(true & guessed) / (len(true) + len(guessed)) if true or guessed else 1.0


def _of_type(spans: set[Span], span_type: str) -> set[Span]:
    return {span for span in spans if span[1] == span_type}


def _spans(sentence: int, tags: Sequence[str]) -> list[Span]:
    """Return (sentence, type, first token, token after the last one) of each span."""
    spans: list[Span] = []
    before = ("O", "")
    for position, tag in enumerate(tags):
        prefix, _, span_type = str(tag).partition("-")
        if prefix not in ("B", "I", "E", "S", "O") or (prefix == "O") != (not span_type):
            raise InputError(
                f"span_f1: the tag {tag!r} of sentence {sentence} is not one of O, B-TYPE, I-TYPE, E-TYPE, S-TYPE."
            )
        if prefix != "O":
            starts = prefix in "BS" or before[0] in "ESO" or before[1] != span_type
            start = position if starts else spans.pop()[2]
            spans.append((sentence, span_type, start, position + 1))
        before = (prefix, span_type)
    return spans
