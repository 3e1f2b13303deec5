"""Shows the size of the vocabulary and how well the tokenizer fits the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.markup import Html, el, pairs
from encodery.evaluate.report.number_format import MISSING, number, percentage
from encodery.evaluate.report.run_facts import RunFacts


def tokenizer_statistics(facts: RunFacts) -> Html:
    """Return the kind of the tokenizer, the numbers of tokens and the metrics of the tokenizer on held-out text."""
    store, tokenizer = facts.ancestor("tokens"), facts.ancestor("tokenizer")
    rows: list[tuple[object, object]] = []
    if tokenizer is not None:
        rows.append(("kind", _kind(tokenizer.manifest.settings)))
    if store is not None:
        metrics, settings = store.manifest.metrics, store.manifest.settings
        train, heldout = metrics.get("train", {}), metrics.get("heldout", {})
        rows += [
            ("vocabulary", number(settings.get("special_tokens", {}).get("vocab_size"))),
            ("tokens", f"{number(train.get('tokens'))} for training, {number(heldout.get('tokens'))} held out"),
            ("bytes per token", number(_ratio(heldout.get("bytes"), heldout.get("tokens")))),
            ("unknown tokens", percentage(_ratio(heldout.get("unknown"), heldout.get("tokens")))),
        ]
    measured = facts.tokenizer_metrics
    if measured is not None:
        rows += [
            ("tokens per word", number(measured.tokens_per_word)),
            ("words that are one token", percentage(measured.single_token_words)),
            ("vocabulary in use", percentage(measured.vocabulary_used)),
            ("longest pieces", " ".join(measured.longest_pieces[:12])),
        ]
    return pairs(rows) if rows else el("p", "Not recorded.", class_="faint")


def _kind(settings: Mapping[str, Any]) -> str:
    kind = settings.get("kind", settings)
    return str(kind.get("is", MISSING)) if isinstance(kind, Mapping) else str(kind)


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
