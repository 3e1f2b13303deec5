"""Checks of rewrites of a corpus build, on prose and on unusual texts."""

from __future__ import annotations

from encodery.base.settings import decode, encode
from encodery.checks.filters import PROSE
from encodery.corpus.steps.rewrite import Rewrite

UNUSUAL = ("", " ", "\n\n", "\u0301", "字" * 10)


def check_settings_round_trip(part: Rewrite) -> None:
    """The part is what its settings decode to."""
    assert decode(Rewrite, encode(part)) == part


def check_builds_a_step(part: Rewrite) -> None:
    """The step of datatrove yields a document for each piece, in order."""
    from datatrove.data import Document
    from datatrove.pipeline.base import PipelineStep

    step = part.build("rewrite")
    assert isinstance(step, PipelineStep)
    documents = list(step.run(iter([Document(text=PROSE, id="0"), Document(text=" ", id="1")])))
    assert [document.text for document in documents] == [*part.apply(PROSE), *part.apply(" ")]


def check_prose_is_not_changed(part: Rewrite) -> None:
    """Clean prose of a few lines stays one document and is not changed."""
    assert part.apply(PROSE) == [PROSE]


def check_idempotent(part: Rewrite) -> None:
    """Rewriting a rewritten text changes nothing."""
    for text in UNUSUAL:
        for piece in part.apply(text):
            assert part.apply(piece) == [piece], f"{piece!r} is changed again"
