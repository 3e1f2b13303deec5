"""Sections on what the model does: fills, neighbours, search."""

from __future__ import annotations

from typing import Any

from encodery.base.markup import Html, el, join, pairs, table
from encodery.evaluate.report.draw_examples import ModelExamples, NeighbourExample
from encodery.evaluate.report.number_format import number


def fills(samples: ModelExamples | None, why: str) -> Html:
    """Sentences with a hidden word and the guesses for it."""
    if samples is None or not samples.fills:
        return el("p", f"None. {why}".strip(), class_="faint")
    shown = [
        el(
            "p",
            "One word of each held-out sentence, chosen by hash, was hidden. Marked: the true word. Below: the five "
            "best guesses.",
            class_="faint small",
        )
    ]
    for fill in samples.fills:
        guesses = [
            el(
                "span",
                el("mark", word) if word.lower() == fill.word.lower() else word,
                " ",
                el("small", f"{100 * chance:.0f} %"),
                class_="guess",
            )
            for word, chance in fill.predictions
        ]
        sentence = el("p", fill.before, el("mark", fill.word), fill.after)
        shown.append(el("div", sentence, el("p", *guesses), class_="sample"))
    return join(shown)


def neighbours(samples: ModelExamples | None, why: str) -> Html:
    """Words and passages with what lies nearest to them."""
    if samples is None or not (samples.words or samples.passages):
        return el("p", f"None. {why}".strip(), class_="faint")
    shown: list[Html] = []
    if samples.words:
        rows = [(el("b", w.text), join((_near(near, cosine) for near, cosine in w.nearest))) for w in samples.words]
        shown += [
            el("h3", "Words"),
            el("p", "Nearest in the model's word table, over the text's range of frequencies.", class_="faint small"),
            table((), rows),
        ]
    if samples.passages:
        said = f"Nearest of {samples.compared} held-out passages by pooled hidden states, centred, with their cosines."
        shown += [el("h3", "Passages"), el("p", said, class_="faint small"), *map(_passage, samples.passages)]
    return join(shown)


def _near(word: str, cosine: float) -> Html:
    return el("span", word, " ", el("small", f"{cosine:.2f}"), class_="guess")


def _passage(found: NeighbourExample) -> Html:
    near = [el("p", el("small", f"{cosine:.2f} "), text, class_="small faint") for text, cosine in found.nearest]
    return el("div", el("p", found.text), *near, class_="sample")


def search(found: Any) -> Html:
    """`search.json` of the run: {system: {figure: value}}; a row with `low` and `high` is a difference with its 95 %
    interval; single values stand below."""
    if not isinstance(found, dict) or not found:
        return el("p", "Not measured.", class_="faint")
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    apart = {name: row for name, row in rows.items() if {"low", "high"} <= set(row)}
    systems = {name: row for name, row in rows.items() if name not in apart}
    names = list(dict.fromkeys(key for row in systems.values() for key in row))
    pieces: list[Html] = []
    if names:
        cells = [(system, *(_value(row.get(name)) for name in names)) for system, row in systems.items()]
        pieces.append(table(("", *names), cells, numeric=tuple(range(1, len(names) + 1))))
    lines: list[tuple[object, object]] = [(name, _difference(row)) for name, row in apart.items()]
    lines += [(name, _value(value)) for name, value in found.items() if not isinstance(value, dict)]
    return join((*pieces, pairs(lines))) if lines else join(pieces)


def _difference(row: dict[str, Any]) -> str:
    """ndcg@10 +0.019, 95 % interval -0.004 … +0.041: not apart."""
    shown = ", ".join(f"{name} {value:+.3f}" for name, value in row.items() if name not in ("low", "high"))
    told = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "no clear difference"
    return f"{shown}, 95 % interval {row['low']:+.3f} … {row['high']:+.3f}: {told}"


def _value(value: object) -> str:
    return (
        number(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else ""
        if value is None
        else str(value)
    )
