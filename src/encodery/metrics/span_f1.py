"""F1 of whole spans in tagged tokens, as seqeval and conlleval have it: its type and both ends must be right.

Reads IO, BIO, IOB and BIOES tags: an I or E that continues nothing begins a span, as does a change of type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics import Metric

Span = tuple[int, str, int, int]


@dataclass(frozen=True, kw_only=True)
class SpanF1(Metric):
    """Tags of N sentences, each a list such as ["B-PER", "I-PER", "O"], against tags of the same tokens.

    `average`: micro counts every span alike, macro every type. 1 where there are no spans on either side.
    """

    average: Literal["micro", "macro"] = "micro"

    def score(self, truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
        if len(truth) != len(predicted):
            raise InputError(f"span_f1: there are {len(truth)} sentences, and predictions of {len(predicted)}.")
        if not len(truth):
            raise EmptyInput("span_f1: there are no sentences to measure.")
        for row, (left, right) in enumerate(zip(truth, predicted, strict=True)):
            if len(left) != len(right):
                raise InputError(f"span_f1: sentence {row} has {len(left)} tags, its prediction {len(right)}.")
        true = {span for row, tags in enumerate(truth) for span in _spans(row, tags)}
        given = {span for row, tags in enumerate(predicted) for span in _spans(row, tags)}
        if self.average == "micro" or not true | given:
            return _f1(true, given)
        kinds = sorted({kind for _, kind, _, _ in true | given})
        return float(np.mean([_f1(_of(true, kind), _of(given, kind)) for kind in kinds]))


def _f1(true: set[Span], given: set[Span]) -> float:
    return 2 * len(true & given) / (len(true) + len(given)) if true or given else 1.0


def _of(spans: set[Span], kind: str) -> set[Span]:
    return {span for span in spans if span[1] == kind}


def _spans(row: int, tags: Sequence[str]) -> list[Span]:
    """Sentence, type, first token and the one after the last of each span."""
    found: list[Span] = []
    before = ("O", "")
    for place, tag in enumerate(tags):
        prefix, _, kind = str(tag).partition("-")
        if prefix not in ("B", "I", "E", "S", "O") or (prefix == "O") != (not kind):
            raise InputError(
                f"span_f1: the tag {tag!r} of sentence {row} is none of O, B-TYPE, I-TYPE, E-TYPE, S-TYPE."
            )
        if prefix != "O":
            begins = prefix in "BS" or before[0] in "ESO" or before[1] != kind
            start = place if begins else found.pop()[2]
            found.append((row, kind, start, place + 1))
        before = (prefix, kind)
    return found
