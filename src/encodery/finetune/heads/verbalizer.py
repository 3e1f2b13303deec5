"""A class said as a word: the model's own masked-language-model head fills the gap of a prompt. arXiv:2001.07676

The words of a label are its pieces in the vocabulary; a label of several pieces has the mean of their logits.
Shapes: R rows, E examples (a row under each pattern), P patterns, C classes, W pieces of a label at most, V vocabulary.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.finetune import calibrate
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.classification import SingleLabelTask
from encodery.finetune.heads.cloze_prompt import ClozePrompt, word_ids
from encodery.finetune.heads.labels import label_indices, label_names
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Rows, RowSchema, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class VerbalizerTask(SingleLabelTask):
    """Of a text, or of a pair of texts."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "text_b"), ("label",)),
        RowSchema(("text",), ("label",)),
    )
    uses_mlm_head: ClassVar[bool] = True

    @abc.abstractmethod
    def prompt_patterns(self, labels: Sequence[str], inputs: Sequence[str], tokenizer: Tokenizer) -> Sequence[str]:
        """The patterns for rows of these inputs."""

    @abc.abstractmethod
    def label_words(self, labels: Sequence[str], tokenizer: Tokenizer) -> Mapping[str, Sequence[str]]:
        """The words of each label."""

    def fit_metadata(self, rows: Rows, tokenizer: Tokenizer) -> dict[str, Any]:
        """See `Task`. Raises `SettingsError` for patterns and words that cannot be used."""
        known = self.fit_labels(rows)
        inputs = self.schema_for(list(rows), False).inputs
        patterns = list(self.prompt_patterns(known["labels"], inputs, tokenizer))
        words = self.label_words(known["labels"], tokenizer)
        ids = []
        for pattern in patterns:
            spaced = ClozePrompt.parse(pattern, inputs).space_before_gap
            ids.append([word_ids(words[label], spaced, tokenizer) for label in known["labels"]])
            told: dict[tuple[int, ...], str] = {}
            for label, pieces in zip(known["labels"], ids[-1], strict=True):
                other = told.setdefault(tuple(sorted(pieces)), label)
                if other != label:
                    raise SettingsError(f"Labels '{other}' and '{label}' are said with the same word.")
        return {**known, "patterns": patterns, "words": ids}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        inputs = self.schema_for(list(rows), False).inputs
        filled = [ClozePrompt.parse(pattern, inputs).fill(rows, preprocessor) for pattern in metadata["patterns"]]
        labels = label_indices(label_names(rows["label"]), metadata["labels"]) if with_targets else None
        collector = ExampleBuilder(preprocessor.uses_segments)
        for row in range(len(rows[inputs[0]])):
            for number, (found, _) in enumerate(filled):
                for piece, gap in found[row]:
                    told = {"pattern": number} if labels is None else {"pattern": number, "label": labels[row]}
                    collector.add(row, [piece], told, {"gap": np.arange(len(piece.ids)) == gap})
        lost = np.max([some for _, some in filled], axis=0, initial=0)
        return collector.build(lost.tolist())

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _SpokenModule(metadata["words"])

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """(R, C) the mean of the log-probabilities under each pattern, windows alike."""
        stacked = np.log(np.maximum(calibrate.softmax(np.stack(outputs)), 1e-30))
        found = np.zeros((examples.num_rows, stacked.shape[1]))
        np.add.at(found, examples.row, stacked)
        return found / np.bincount(examples.row, minlength=examples.num_rows)[:, None]


class _SpokenModule(TaskModule):
    """Has no weights of its own: the words are read from the model's head."""

    words: Tensor
    shares: Tensor

    def __init__(self, words: Sequence[Sequence[Sequence[int]]]) -> None:
        super().__init__()
        wide = max(len(pieces) for some in words for pieces in some)
        ids = torch.zeros(len(words), len(words[0]), wide, dtype=torch.int64)
        shares = torch.zeros(ids.shape)
        for pattern, some in enumerate(words):
            for label, pieces in enumerate(some):
                ids[pattern, label, : len(pieces)] = torch.tensor(pieces)
                shares[pattern, label, : len(pieces)] = 1 / len(pieces)
        self.register_buffer("words", ids, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if output.mlm_logits is None:
            raise SettingsError("The model has no masked-language-model head, which has to say the word.")
        logits = output.mlm_logits(gap_states(output.hidden, batch)).float()
        pattern = batch.extra.get("pattern", batch.ids.new_zeros(len(batch)))
        chosen = logits.gather(1, self.words[pattern].flatten(1)).view(len(batch), *self.words.shape[1:])
        return (chosen * self.shares[pattern]).sum(-1)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"words": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        label = batch.extra["label"]
        total = torch.nn.functional.cross_entropy(predicted, label, reduction="sum")
        return {
            "words": LossTerm(total, len(label)),
            "right": LossTerm((predicted.argmax(-1) == label).sum(), len(label), 0.0),
        }


def gap_states(hidden: Tensor, batch: Batch) -> Tensor:
    """(S, H) the hidden state in each sequence's gap; its first token's where a batch names no gaps."""
    if "gap" in batch.extra:
        return hidden[batch.extra["gap"].nonzero()[:, 0]]
    return hidden[batch.cu_seqlens[:-1].long()]
