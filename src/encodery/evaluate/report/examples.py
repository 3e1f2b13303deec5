"""Shows examples of what a model predicts: masked words in sentences, and the nearest neighbours of words and texts."""

from __future__ import annotations

from encodery.base.markup import Html, el, join, table
from encodery.evaluate.report.draw_examples import ModelExamples, NeighbourExample
from encodery.evaluate.report.number_format import number


def masked_words(examples: ModelExamples | None, reason: str) -> Html:
    """Return sentences with a masked word and the predictions for it.

    Args:
        examples: the examples of `draw_examples`; None if there are none.
        reason: why there are no examples; shown in their place.
    """
    if examples is None or not examples.fills:
        return el("p", f"None. {reason}".strip(), class_="faint")
    pieces = [
        el(
            "p",
            "In each held-out sentence one word, selected by a hash, was masked. The word is highlighted; below it are "
            "the five best predictions with their probabilities.",
            class_="faint small",
        )
    ]
    for fill in examples.fills:
        predictions = [
            el(
                "span",
                el("mark", word) if word.lower() == fill.word.lower() else word,
                " ",
                el("small", f"{100 * probability:.0f} %"),
                class_="prediction",
            )
            for word, probability in fill.predictions
        ]
        sentence = el("p", fill.before, el("mark", fill.word), fill.after)
        pieces.append(el("div", sentence, el("p", *predictions), class_="sample"))
    return join(pieces)


def nearest_neighbours(examples: ModelExamples | None, reason: str) -> Html:
    """Return words and passages with their nearest neighbours. For the arguments see `masked_words`."""
    if examples is None or not (examples.words or examples.passages):
        return el("p", f"None. {reason}".strip(), class_="faint")
    pieces: list[Html] = []
    if examples.words:
        rows = [(el("b", e.text), join(_word(word, cosine) for word, cosine in e.nearest)) for e in examples.words]
        caption = "Nearest by the cosine similarity of the token embeddings, for words of different frequencies."
        pieces += [el("h3", "Words"), el("p", caption, class_="faint small"), table((), rows)]
    if examples.passages:
        caption = (
            f"Nearest of {number(examples.num_passages)} held-out passages by the cosine similarity of their pooled "
            "and centred hidden states."
        )
        pieces += [el("h3", "Passages"), el("p", caption, class_="faint small"), *map(_passage, examples.passages)]
    return join(pieces)


def _word(word: str, cosine: float) -> Html:
    return el("span", word, " ", el("small", f"{cosine:.2f}"), class_="prediction")


def _passage(example: NeighbourExample) -> Html:
    nearest = [el("p", el("small", f"{cosine:.2f} "), text, class_="small faint") for text, cosine in example.nearest]
    return el("div", el("p", example.text), *nearest, class_="sample")
