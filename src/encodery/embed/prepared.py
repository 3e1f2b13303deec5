"""The examples of embedding training for a model: read and tokenised once, to plan and to train.

Shapes: E examples, C columns, P texts of the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from encodery.embed.examples import EmbeddingExamples, column_roles
from encodery.embed.heldout import HeldOut
from encodery.embed.heldout_metrics import has_metrics
from encodery.embed.reading import EmbedData
from encodery.embed.text_pool import TextPool
from encodery.embed.training import EmbedTraining
from encodery.model.load import LoadedModel
from encodery.tokens.shuffle import Integers
from encodery.train.example_plan import PreparedExamples


@dataclass(frozen=True, eq=False)
class PreparedTexts(PreparedExamples):
    """The texts of `data`, tokenised.

    Args:
        loaded: the model that training starts from.
        data: what was read.
        train: the training examples as the objective needs them.
        pool: the texts of these.
        indices: (E, C), the texts of each training example.
        dev: dev examples; None for none and for raw sentences.
        test: test examples; None if there are none that can be evaluated.
        arrangement_notes: lines for the user on `train`.
    """

    loaded: LoadedModel
    data: EmbedData
    train: EmbeddingExamples
    pool: TextPool
    indices: Integers
    dev: HeldOut | None
    test: HeldOut | None
    arrangement_notes: list[str]

    @property
    def lengths(self) -> Integers:
        """See `PreparedExamples`."""
        lengths: Integers = self.pool.lengths[self.indices].sum(1)
        return lengths

    @property
    def fingerprint(self) -> str:
        """See `PreparedExamples`."""
        return self.train.fingerprint


def prepare_texts(settings: EmbedTraining, loaded: LoadedModel, data: EmbedData) -> PreparedTexts:
    """Arrange the training examples as the objective needs them, and tokenise all splits.

    The settings need their loss if the objective learns from one; nothing depends on `train`, `batch` and `optim`.
    Raises `SettingsError` if the data lacks what the loss needs, `InputError` for a text that may not be truncated.
    """

    def tokenised(examples: EmbeddingExamples, roles: Sequence[str]) -> tuple[TextPool, Integers]:
        limit = settings.max_tokens(loaded.model.settings.max_length)
        prompts = settings.prompts(roles)
        return TextPool.from_columns(examples.columns, prompts, loaded.tokenizer, limit, settings.truncate)

    def held_out(examples: EmbeddingExamples) -> HeldOut:
        return HeldOut(examples, *tokenised(examples, column_roles(len(examples.columns))))

    train, notes = settings.objective.arrange(data.train, settings.loss)
    pool, indices = tokenised(train, settings.objective.roles(len(train.columns)))
    dev = None if data.dev is None or data.dev.raw else held_out(data.dev)
    test = None if data.test is None or not has_metrics(data.test) else held_out(data.test)
    return PreparedTexts(loaded, data, train, pool, indices, dev, test, notes)
