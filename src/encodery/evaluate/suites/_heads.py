"""What is said of a fine-tuned model where only its vectors are looked at."""

from __future__ import annotations

from encodery.evaluate.systems import OpenSystem


def note_unused_head(system: OpenSystem, done: str) -> None:
    """Remark that a head is not asked, where there is one; `done`: what happens to the vectors instead."""
    if system.task:
        system.notes.append(
            f"{system.name}: its vectors are {done}, its head of the task '{system.task}' is not asked; "
            "`encodery evaluate task` measures the head."
        )
