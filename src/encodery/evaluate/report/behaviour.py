"""Sections on what the model does: fills, neighbours, search."""

from __future__ import annotations

from typing import Any

from encodery.evaluate.report.amounts import number
from encodery.evaluate.report.markup import Html, el, join, pairs, table
from encodery.evaluate.report.samples import Neighbours, Samples


def fills(samples: Samples | None, why: str) -> Html:
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
            for word, chance in fill.guesses
        ]
        sentence = el("p", fill.before, el("mark", fill.word), fill.after)
        shown.append(el("div", sentence, el("p", *guesses), class_="sample"))
    return join(shown)


def neighbours(samples: Samples | None, why: str) -> Html:
    """Words and passages with what lies nearest to them."""
    if samples is None or not (samples.words or samples.passages):
        return el("p", f"None. {why}".strip(), class_="faint")
    shown: list[Html] = []
    if samples.words:
        rows = [(el("b", w.text), join((_near(near, cosine) for near, cosine in w.found))) for w in samples.words]
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


def _passage(found: Neighbours) -> Html:
    near = [el("p", el("small", f"{cosine:.2f} "), text, class_="small faint") for text, cosine in found.found]
    return el("div", el("p", found.text), *near, class_="sample")


def search(found: Any) -> Html:
    """`search.json` of the run: a table {system: {figure: value}}, or any table of values; nested ones as rows."""
    if not isinstance(found, dict) or not found:
        return el("p", "Not measured.", class_="faint")
    systems = {name: row for name, row in found.items() if isinstance(row, dict)}
    single = [(name, _value(value)) for name, value in found.items() if not isinstance(value, dict | list)]
    names = list(
        dict.fromkeys(key for row in systems.values() for key, v in row.items() if not isinstance(v, dict | list))
    )
    pieces: list[Html] = []
    if names:
        rows = [(system, *(_value(row.get(name)) for name in names)) for system, row in systems.items()]
        pieces.append(table(("", *names), rows, numeric=tuple(range(1, len(names) + 1))))
    if single:
        pieces.append(pairs(single))
    return join(pieces)


def _value(value: object) -> str:
    return (
        number(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else ""
        if value is None
        else str(value)
    )
