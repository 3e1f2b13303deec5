"""Heads of fine-tuned models on their way out: never dropped without a word."""

from __future__ import annotations

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.finetune.artifact import NAME, opened
from encodery.model.load import Loaded

GOLDEN = "golden"  # What the module gave when it was saved, which is nothing learnt.
ALONE = "head=false writes the encoder alone."


def check_held(loaded: Loaded) -> None:
    """Raises `SettingsError` for a model on whose encoder weights stand that the folder would not hold."""
    for name, kept in loaded.modules().items():
        trained = sorted(kept.keys() - {GOLDEN})
        if name != NAME and trained:
            raise SettingsError(
                f"What was trained on the encoder ({name}: {', '.join(trained)}) has no place in a folder of "
                f"transformers: `encodery export sentence_transformers` may hold it, {ALONE}"
            )
    if "task" not in loaded.settings:
        return
    tuned = opened(loaded)
    if loaded.origin is None and any(True for _ in tuned.module.parameters()):
        raise SettingsError(f"The head of the task '{name_of(tuned.task)}' would be left behind: {ALONE}")
