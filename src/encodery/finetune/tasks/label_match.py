"""A class by similarity of two gaps: one in a prompt around the text, one around the label's name. arXiv:2312.08726

The hidden state in the gap of "{text} It is {mask}." is compared with those of "{label} is {mask}." of all labels: the
names of the labels help, no head is initialised at random, and each label is encoded once for thousands of texts.
Differs from the paper: cosines times a learned scale in place of dot products, whose softmax is far too sharp at first.
Shapes: E examples, S sequences (in training a text and labels, in use one or the other), H width, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.settings import check_at_least
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.classification import SingleLabelTask
from encodery.finetune.heads.cloze_prompt import ClozePrompt, FilledPrompt, gap_marks
from encodery.finetune.heads.labels import check_described, label_indices, label_names
from encodery.finetune.heads.layers import grouped_log_softmax
from encodery.finetune.heads.verbalizer import gap_states
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Rows, RowSchema, TaskMetadata
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm

TEXT = -1
"""Value of the target `which` for a text; a label has its index."""


@dataclass(frozen=True, kw_only=True)
class LabelMatching(SingleLabelTask):
    """Predict the label whose prompt is most similar to the text's.

    `pattern` with {text} and {mask}, `label_pattern` with {label} and {mask}. `label_descriptions`: label → its text
    (absent: its name). `labels_per_text`: labels read with a text in training, the right one included.
    Use it with few rows and many labels that have telling names:

        encodery finetune label_match intents.csv --model run --out intents
        # a row: {"text": "I want my money back.", "label": "refund_request"}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text",), ("label",)),)

    pattern: str = "{text} It is {mask}."
    label_pattern: str = "{label} is {mask}."
    label_descriptions: dict[str, str] = field(default_factory=dict)
    labels_per_text: int = 16

    def __post_init__(self) -> None:
        check_at_least(self, 2, "labels_per_text")
        ClozePrompt.parse(self.pattern, ("text",))
        ClozePrompt.parse(self.label_pattern, ("label",))

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        """See `Task`. Raises `SettingsError` for a description of a label that no row has."""
        labels = super().fit_labels(rows).labels
        check_described(self.label_descriptions, labels)
        return TaskMetadata(labels=labels)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        labels = metadata.labels
        texts, dropped = ClozePrompt.parse(self.pattern, ("text",)).fill(rows, preprocessor)
        names = [self.label_descriptions.get(label, label.replace("_", " ")) for label in labels]
        filled, _ = ClozePrompt.parse(self.label_pattern, ("label",)).fill({"label": names}, preprocessor)
        prompts = [windows[0] for windows in filled]
        right = label_indices(label_names(rows["label"]), labels) if with_targets else None
        builder = ExampleBuilder(preprocessor.uses_segments)

        def add(row: int, own: Sequence[FilledPrompt], targets: dict[str, int]) -> None:
            builder.add(row, [sequence for sequence, _ in own], targets, gap_marks(own))

        for row, windows in enumerate(texts):
            for window in windows:
                if right is None:
                    add(row, [window], {"which": TEXT})
                else:
                    chosen, index = _sample_labels(row, int(right[row]), len(labels), self.labels_per_text)
                    add(row, [window, *(prompts[label] for label in chosen)], {"label": index})
        if right is None and texts:
            for label, prompt in enumerate(prompts):  # Once for all rows: they count as part of the last row.
                add(len(texts) - 1, [prompt], {"which": label})
        return builder.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _LabelMatchingModule()

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        which = examples.targets["which"]
        vectors = np.concatenate(outputs).astype(np.float64)
        similarity = vectors[which == TEXT] @ vectors[which != TEXT].T
        row = examples.row[which == TEXT]
        total = np.zeros((examples.num_rows, similarity.shape[1]))
        np.add.at(total, row, similarity)
        return total / np.bincount(row, minlength=examples.num_rows)[:, None]


class _LabelMatchingModule(TaskModule):
    granularity = "sequence"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return (S, H) the state in each gap, scaled such that dot products are logits."""
        directions = nn.functional.normalize(gap_states(output.hidden, batch).float(), dim=-1)
        return directions * (self.scale / 2).exp()

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"labels": len(batch.extra["sizes"])}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        sizes, label = batch.extra["sizes"], batch.extra["label"]
        group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(batch))
        text = sizes.cumsum(0) - sizes  # The first sequence of each example is its text, the others are labels.
        is_label = torch.ones_like(group, dtype=torch.bool)
        is_label[text] = False
        logits = (predicted * predicted[text][group]).sum(-1)[is_label]
        log_probabilities = grouped_log_softmax(logits, group[is_label], len(sizes))
        # Before the labels of an example are all sequences of earlier examples, less one text for each of them.
        right = text - torch.arange(len(sizes), device=sizes.device) + label
        return {"labels": LossTerm(-log_probabilities[right].sum(), len(sizes))}


def _sample_labels(row: int, right: int, labels: int, count: int) -> tuple[list[int], int]:
    """Return the labels read with a row, all or `count` drawn with the row as seed, and the index of the right one."""
    if labels <= count:
        return list(range(labels)), right
    draw = np.random.default_rng([0x1ABE1, row])
    others = draw.choice(labels - 1, count - 1, replace=False)
    chosen = sorted([right, *(others + (others >= right)).tolist()])
    return chosen, chosen.index(right)
