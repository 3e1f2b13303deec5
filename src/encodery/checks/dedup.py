"""Checks of deduplication methods of a corpus build, run in this process as one task over four documents."""

from __future__ import annotations

import tempfile

from encodery.base.settings import decode, encode
from encodery.checks.filters import PROSE
from encodery.corpus.steps.dedup import Dedup

OTHER = (
    "Rivers carry sand and mud from the mountains to the plains, where the water slows down and drops what it holds.\n"
    "Over thousands of years these layers form wide and fertile valleys, in which many of the first towns were built."
)
TEXTS = (
    PROSE,
    OTHER,
    PROSE,
    OTHER + "\nNobody knows how old the oldest of these towns is, but some have stood for ages.",
)
"""The third text equals the first; the last has a sentence more than the second."""


def deduplicated(part: Dedup, texts: tuple[str, ...], folder: str) -> list[str]:
    """Run the passes and the step of a method, with its files below `folder`, and return the texts that remain."""
    from datatrove.data import Document

    for one in part.passes(folder):
        for rank in range(one.tasks or 1):
            documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
            data = iter(documents) if one.documents else None
            for step in one.steps:
                data = step(data, rank, one.tasks or 1)
            list(data or ())
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    return [document.text for document in part.build(folder)(iter(documents), 0, 1)]


def check_settings_round_trip(part: Dedup) -> None:
    """The part is what its settings decode to."""
    assert decode(Dedup, encode(part)) == part


def check_passes(part: Dedup) -> None:
    """There are passes with different names, the first of them over the documents, made of steps of datatrove."""
    from datatrove.pipeline.base import PipelineStep

    with tempfile.TemporaryDirectory() as folder:
        passes = part.passes(folder)
        assert passes, "there are no passes"
        assert passes[0].documents, "the first pass does not run over the documents"
        assert len({one.name for one in passes}) == len(passes), "two passes have the same name"
        assert all(isinstance(step, PipelineStep) for one in passes for step in one.steps)
        assert isinstance(part.build(folder), PipelineStep)


def check_duplicates_are_dropped(part: Dedup) -> None:
    """Of two equal texts one remains; a text with a sentence more may be dropped, other texts are not."""
    with tempfile.TemporaryDirectory() as folder:
        texts = deduplicated(part, TEXTS, folder)
    assert texts.count(PROSE) == 1, f"{texts.count(PROSE)} of two equal texts remain"
    assert any(text.startswith(OTHER) for text in texts), "a text that is no duplicate was dropped"


def check_different_texts_are_kept(part: Dedup) -> None:
    """Without duplicates every text remains, in order and unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        assert deduplicated(part, TEXTS[:2], folder) == list(TEXTS[:2])
