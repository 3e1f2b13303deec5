"""A class by likeness of two gaps: one in a prompt around the text, one around each label's name. arXiv:2312.08726

The hidden state in the gap of "{text} It is {mask}." is held against those of "{label} is {mask}." for all labels: what
the labels are called helps, no head begins at random, and with thousands of texts each label is read once.
Differs from the paper: cosines times a learned scale instead of plain dot products, which start far too sharp.
Shapes: E examples, S sequences (a text and labels in training; in use one of either kind), H width, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError, nearest
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.classification import SingleLabelTask
from encodery.finetune.heads.cloze_prompt import ClozePrompt
from encodery.finetune.heads.labels import label_indices, label_names
from encodery.finetune.heads.pooled import grouped_log_softmax
from encodery.finetune.heads.verbalizer import gap_states
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Rows, RowSchema, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm

TEXT = -1


@dataclass(frozen=True, kw_only=True)
class LabelMatching(SingleLabelTask):
    """`pattern` with {text} and {mask}, `label_pattern` with {label} and {mask}. `described`: label -> the text that
    stands for it (absent: its name). `shown`: labels that are read with a text in training, the right one among them.
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("text",), ("label",)),)

    pattern: str = "{text} It is {mask}."
    label_pattern: str = "{label} is {mask}."
    label_descriptions: dict[str, str] = field(default_factory=dict)
    labels_per_text: int = 16

    def __post_init__(self) -> None:
        if self.labels_per_text < 2:
            raise SettingsError(f"shown = {self.labels_per_text}: must be at least 2.")
        ClozePrompt.parse(self.pattern, ("text",))
        ClozePrompt.parse(self.label_pattern, ("label",))

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        """See `Task`. Raises `SettingsError` for a description of no label."""
        known = super().fit_labels(rows)
        for label in self.label_descriptions:
            if label not in known["labels"]:
                raise SettingsError(f"described.{label}: no row has this label.{nearest(label, known['labels'])}")
        return {"labels": known["labels"]}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        labels = metadata["labels"]
        texts, dropped = ClozePrompt.parse(self.pattern, ("text",)).fill(rows, preprocessor)
        names = [self.label_descriptions.get(label, label.replace("_", " ")) for label in labels]
        prompts = [
            some[0]
            for some in ClozePrompt.parse(self.label_pattern, ("label",)).fill({"label": names}, preprocessor)[0]
        ]
        right = label_indices(label_names(rows["label"]), labels) if with_targets else None
        collector = ExampleBuilder(preprocessor.uses_segments)

        def add(row: int, found: Sequence[tuple[Any, int]], told: dict[str, int]) -> None:
            marks = [np.arange(len(piece.ids)) == gap for piece, gap in found]
            collector.add(row, [piece for piece, _ in found], told, {"gap": np.concatenate(marks)})

        for row, windows in enumerate(texts):
            for window in windows:
                if right is None:
                    add(row, [window], {"which": TEXT})
                else:
                    shown, place = _shown(row, int(right[row]), len(labels), self.labels_per_text)
                    add(row, [window, *(prompts[number] for number in shown)], {"label": place})
        if right is None and texts:
            for number, prompt in enumerate(prompts):  # Read once for all rows, with the last of them.
                add(len(texts) - 1, [prompt], {"which": number})
        return collector.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _MatchModule()

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        which = examples.targets["which"]
        vectors = np.concatenate(outputs).astype(np.float64)
        near = vectors[which == TEXT] @ vectors[which != TEXT].T
        row = examples.row[which == TEXT]
        found = np.zeros((examples.num_rows, near.shape[1]))
        np.add.at(found, row, near)
        return found / np.bincount(row, minlength=examples.num_rows)[:, None]


class _MatchModule(TaskModule):
    granularity = "sequence"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """(S, H) the state in each gap, of such a length that dot products are logits."""
        unit = nn.functional.normalize(gap_states(output.hidden, batch).float(), dim=-1)
        return unit * (self.scale / 2).exp()

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"labels": len(batch.extra["sizes"])}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        sizes, label = batch.extra["sizes"], batch.extra["label"]
        group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(batch))
        first = sizes.cumsum(0) - sizes
        mine = torch.ones_like(group, dtype=torch.bool)
        mine[first] = False  # A text is no label of its own.
        logits = (predicted * predicted[first][group]).sum(-1)[mine]
        logs = grouped_log_softmax(logits, group[mine], len(sizes))
        # Behind the texts of the examples before it and its own, less one for each text left out.
        at = first - torch.arange(len(sizes), device=sizes.device) + label
        return {"labels": LossTerm(-logs[at].sum(), len(sizes))}


def _shown(row: int, right: int, labels: int, count: int) -> tuple[list[int], int]:
    """Which labels are read with a row, and the place of the right one: all, or some drawn by the row's number."""
    if labels <= count:
        return list(range(labels)), right
    draw = np.random.default_rng([0x1ABE1, row])
    others = draw.choice(labels - 1, count - 1, replace=False)
    shown = sorted([right, *(others + (others >= right)).tolist()])
    return shown, shown.index(right)
