"""Labelled data with the examples of a task for a model: read and tokenised once, to plan and to train."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from encodery.finetune.data import LabelledData
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.task_types import Rows, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.load import LoadedModel
from encodery.tokens.shuffle import Integers
from encodery.train.example_plan import PreparedExamples


@dataclass(frozen=True, eq=False)
class PreparedData(PreparedExamples):
    """`examples` are those of the training rows of `data`, made with `preprocessor` and `metadata` of the `task`."""

    loaded: LoadedModel
    data: LabelledData
    task: Task
    preprocessor: Preprocessor
    metadata: TaskMetadata
    examples: Examples

    @property
    def lengths(self) -> Integers:
        """See `PreparedExamples`."""
        return self.examples.lengths

    @property
    def fingerprint(self) -> str:
        """See `PreparedExamples`."""
        return self.data.fingerprint

    @cached_property
    def dev(self) -> tuple[Rows, Examples] | None:
        """The dev rows and their examples, tokenised when they are first needed."""
        return self._tokenised(self.data.dev)

    @cached_property
    def test(self) -> tuple[Rows, Examples] | None:
        """The test rows and their examples, tokenised when they are first needed."""
        return self._tokenised(self.data.test)

    def _tokenised(self, rows: Rows | None) -> tuple[Rows, Examples] | None:
        return None if rows is None else (rows, self.task.prepare(rows, self.preprocessor, self.metadata, False))


def prepare_data(settings: FinetuneSettings, loaded: LoadedModel, data: LabelledData) -> PreparedData:
    """Fit the metadata of the task and tokenise the training rows. Raises `InputError` naming a row it cannot use."""
    task = settings.task
    metadata = task.fit_metadata(data.train, loaded.tokenizer)
    preprocessor = preprocessor_for(settings, loaded)
    examples = task.prepare(data.train, preprocessor, metadata, True)
    return PreparedData(loaded, data, task, preprocessor, metadata, examples)


def preprocessor_for(settings: FinetuneSettings, loaded: LoadedModel) -> Preprocessor:
    """Return the preprocessor that the settings define for a model."""
    model = loaded.model.settings
    max_length = settings.effective_max_length(model.max_length)
    return Preprocessor(loaded.tokenizer, max_length, model.type_vocab_size > 1, settings.effective_truncate)
