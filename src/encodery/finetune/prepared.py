"""Labelled data with the training examples of a task for a model: read and tokenised once, to plan and to train."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.finetune.data import LabelledData
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.task_types import TaskMetadata
from encodery.model.load import LoadedModel


@dataclass(frozen=True, eq=False)
class PreparedData:
    """`examples` are those of the training rows of `data`, made with `preprocessor` and `metadata`."""

    loaded: LoadedModel
    data: LabelledData
    preprocessor: Preprocessor
    metadata: TaskMetadata
    examples: Examples


def prepare_data(settings: FinetuneSettings, loaded: LoadedModel, data: LabelledData) -> PreparedData:
    """Fit the metadata of the task and tokenise the training rows. Raises `InputError` naming a row it cannot use."""
    metadata = settings.task.fit_metadata(data.train, loaded.tokenizer)
    preprocessor = preprocessor_for(settings, loaded)
    examples = settings.task.prepare(data.train, preprocessor, metadata, True)
    return PreparedData(loaded, data, preprocessor, metadata, examples)


def preprocessor_for(settings: FinetuneSettings, loaded: LoadedModel) -> Preprocessor:
    """Return the preprocessor that the settings define for a model."""
    model = loaded.model.settings
    max_length = settings.effective_max_length(model.max_length)
    return Preprocessor(loaded.tokenizer, max_length, model.type_vocab_size > 1, settings.effective_truncate)
