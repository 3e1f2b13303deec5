"""A task with its trained module and how it reads rows: what fine-tuning adds to a model, ours or imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.load import LoadedModel
from encodery.tokens.windows import Truncate


@dataclass(frozen=True, eq=False)
class FineTuned:
    """`module`: in evaluation mode. `calibration`: the temperature or threshold for `Task.decode`.

    `max_length`: tokens of a sequence, special tokens included; `truncate`: the policy for longer texts.
    """

    task: Task
    module: TaskModule
    metadata: TaskMetadata
    calibration: Mapping[str, float]
    max_length: int
    truncate: Truncate

    def preprocessor(self, loaded: LoadedModel) -> Preprocessor:
        """Return the preprocessor of this task for a model."""
        uses_segments = loaded.model.settings.type_vocab_size > 1
        return Preprocessor(loaded.tokenizer, self.max_length, uses_segments, self.truncate)
