"""Tasks answered by the model's own masked-language-model head, which fills the gap of a prompt. arXiv:2001.07676

A verbalizer gives each label one or more words; the logit of a label is the mean of the logits of their tokens.
Shapes: R rows, E examples (a row under each pattern), S sequences, H width, P patterns, C classes, W most tokens of a
label, V vocabulary.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.finetune.calibration import softmax
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.classification import SingleLabelTask
from encodery.finetune.heads.cloze_prompt import GAP, ClozePrompt, gap_marks, word_ids
from encodery.finetune.heads.labels import label_indices, label_names
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Rows, RowSchema, TaskMetadata
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class VerbalizerTask(SingleLabelTask, abc.ABC):
    """A class for a text, or for a pair of texts, by the words that fill a gap."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("label",)),
        RowSchema(("text",), ("label",)),
    )
    uses_mlm_head: ClassVar[bool] = True
    unsupported: ClassVar[frozenset[str]] = frozenset({"altered_weights_are_refused"})  # It adds no weights.

    @abc.abstractmethod
    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        """Return the patterns for rows with these inputs."""

    @abc.abstractmethod
    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        """Return the words of each label."""

    def fit_metadata(self, rows: Rows, tokenizer: Tokenizer) -> TaskMetadata:
        """See `Task`. Raises `SettingsError` for patterns and words that cannot be used."""
        metadata = self.fit_labels(rows)
        inputs = self.schema_for(list(rows), False).inputs
        patterns = self.prompt_patterns(metadata.labels, inputs, tokenizer)
        words = self.label_words(metadata.labels, tokenizer)
        verbalizer_ids = []
        for pattern in patterns:
            space_before = ClozePrompt.parse(pattern, inputs).space_before_gap
            ids = [tuple(word_ids(words[label], space_before, tokenizer)) for label in metadata.labels]
            label_of: dict[tuple[int, ...], str] = {}
            for label, own in zip(metadata.labels, ids, strict=True):
                other = label_of.setdefault(tuple(sorted(own)), label)
                if other != label:
                    raise SettingsError(f"Labels '{other}' and '{label}' have the same word.")
            verbalizer_ids.append(tuple(ids))
        return replace(metadata, patterns=tuple(patterns), verbalizer_ids=tuple(verbalizer_ids))

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        inputs = self.schema_for(list(rows), False).inputs
        filled = [ClozePrompt.parse(pattern, inputs).fill(rows, preprocessor) for pattern in metadata.patterns]
        labels = label_indices(label_names(rows["label"]), metadata.labels) if with_targets else None
        builder = ExampleBuilder(preprocessor.uses_segments)
        for row in range(len(rows[inputs[0]])):
            for number, (prompts, _) in enumerate(filled):
                targets = {"pattern": number} if labels is None else {"pattern": number, "label": labels[row]}
                for prompt in prompts[row]:
                    builder.add(row, [prompt[0]], targets, gap_marks([prompt]))
        dropped = np.max([excess for _, excess in filled], axis=0, initial=0)
        return builder.build(dropped.tolist())

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _VerbalizerModule(metadata.verbalizer_ids)

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """Return (R, C) the mean of the log-probabilities under all patterns and in all windows."""
        stacked = np.log(np.maximum(softmax(np.stack(outputs)), 1e-30))
        total = np.zeros((examples.num_rows, stacked.shape[1]))
        np.add.at(total, examples.row, stacked)
        return total / np.bincount(examples.row, minlength=examples.num_rows)[:, None]


class _VerbalizerModule(TaskModule):
    """Reads the logits of the labels' words from the model's head; adds no weights."""

    word_ids: Tensor
    word_weights: Tensor

    def __init__(self, verbalizer_ids: Sequence[Sequence[Sequence[int]]]) -> None:
        super().__init__()
        max_tokens = max(len(own) for of_pattern in verbalizer_ids for own in of_pattern)
        ids = torch.zeros(len(verbalizer_ids), len(verbalizer_ids[0]), max_tokens, dtype=torch.int64)
        weights = torch.zeros(ids.shape)
        for pattern, of_pattern in enumerate(verbalizer_ids):
            for label, own in enumerate(of_pattern):
                ids[pattern, label, : len(own)] = torch.tensor(own)
                weights[pattern, label, : len(own)] = 1 / len(own)
        self.register_buffer("word_ids", ids, persistent=False)
        self.register_buffer("word_weights", weights, persistent=False)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if output.mlm_logits is None:
            raise SettingsError("The model has no masked-language-model head, which this task needs.")
        logits = output.mlm_logits(gap_states(output.hidden, batch)).float()
        pattern = batch.extra.get("pattern", batch.ids.new_zeros(len(batch)))
        of_words = logits.gather(1, self.word_ids[pattern].flatten(1)).view(len(batch), *self.word_ids.shape[1:])
        return (of_words * self.word_weights[pattern]).sum(-1)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"words": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        label = batch.extra["label"]
        total = torch.nn.functional.cross_entropy(predicted, label, reduction="sum")
        return {
            "words": LossTerm(total, len(label)),
            "accuracy": LossTerm((predicted.argmax(-1) == label).sum(), len(label), 0.0),
        }


def gap_states(hidden: Tensor, batch: Batch) -> Tensor:
    """Return (S, H) the hidden state in each sequence's gap, or of its first token if the batch marks no gaps."""
    if GAP in batch.extra:
        return hidden[batch.extra[GAP].nonzero()[:, 0]]
    return hidden[batch.cu_seqlens[:-1].long()]
