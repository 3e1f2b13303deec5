"""A note about fine-tuned models of which only the embeddings are evaluated."""

from __future__ import annotations

from encodery.evaluate.systems import OpenSystem


def note_unused_head(system: OpenSystem, use: str) -> None:
    """Note that the head of a fine-tuned model is not used; `use`: what is done with the embeddings instead."""
    if system.task:
        system.notes.append(
            f"{system.name}: its embeddings are {use}; its head for the task '{system.task}' is not used. "
            "`encodery evaluate task` evaluates the head."
        )
