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
from encodery.finetune.examples import Collector, Examples
from encodery.finetune.reader import Reader
from encodery.finetune.tasks import Form, Known, Rows, TaskModule
from encodery.finetune.tasks._classes import Labelled
from encodery.finetune.tasks._head import within
from encodery.finetune.tasks._labels import names_of, places
from encodery.finetune.tasks._prompt import Prompt
from encodery.finetune.tasks._spoken import gaps
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, Term

TEXT = -1


@dataclass(frozen=True, kw_only=True)
class LabelMatch(Labelled):
    """`pattern` with {text} and {mask}, `label_pattern` with {label} and {mask}. `described`: label -> the text that
    stands for it (absent: its name). `shown`: labels that are read with a text in training, the right one among them.
    """

    forms: ClassVar[tuple[Form, ...]] = (Form(("text",), ("label",)),)

    pattern: str = "{text} It is {mask}."
    label_pattern: str = "{label} is {mask}."
    described: dict[str, str] = field(default_factory=dict)
    shown: int = 16

    def __post_init__(self) -> None:
        if self.shown < 2:
            raise SettingsError(f"shown = {self.shown}: must be at least 2.")
        Prompt.of(self.pattern, ("text",))
        Prompt.of(self.label_pattern, ("label",))

    def learn(self, rows: Rows) -> dict[str, Any]:
        """See `Task`. Raises `SettingsError` for a description of no label."""
        known = super().learn(rows)
        for label in self.described:
            if label not in known["labels"]:
                raise SettingsError(f"described.{label}: no row has this label.{nearest(label, known['labels'])}")
        return {"labels": known["labels"]}

    def prepare(self, rows: Rows, reader: Reader, known: Known, targets: bool) -> Examples:
        labels = known["labels"]
        texts, dropped = Prompt.of(self.pattern, ("text",)).fill(rows, reader)
        names = [self.described.get(label, label.replace("_", " ")) for label in labels]
        prompts = [some[0] for some in Prompt.of(self.label_pattern, ("label",)).fill({"label": names}, reader)[0]]
        right = places(names_of(rows["label"]), labels) if targets else None
        collector = Collector(reader.segmented)

        def add(row: int, found: Sequence[tuple[Any, int]], told: dict[str, int]) -> None:
            marks = [np.arange(len(piece.ids)) == gap for piece, gap in found]
            collector.add(row, [piece for piece, _ in found], told, {"gap": np.concatenate(marks)})

        for row, windows in enumerate(texts):
            for window in windows:
                if right is None:
                    add(row, [window], {"which": TEXT})
                else:
                    shown, place = _shown(row, int(right[row]), len(labels), self.shown)
                    add(row, [window, *(prompts[number] for number in shown)], {"label": place})
        if right is None and texts:
            for number, prompt in enumerate(prompts):  # Read once for all rows, with the last of them.
                add(len(texts) - 1, [prompt], {"which": number})
        return collector.done(dropped)

    def build(self, shape: Shape, known: Known) -> TaskModule:
        return _MatchModule()

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        which = examples.targets["which"]
        vectors = np.concatenate(outputs).astype(np.float64)
        near = vectors[which == TEXT] @ vectors[which != TEXT].T
        row = examples.row[which == TEXT]
        found = np.zeros((examples.rows, near.shape[1]))
        np.add.at(found, row, near)
        return found / np.bincount(row, minlength=examples.rows)[:, None]


class _MatchModule(TaskModule):
    per = "sequence"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """(S, H) the state in each gap, of such a length that dot products are logits."""
        unit = nn.functional.normalize(gaps(output.hidden, batch).float(), dim=-1)
        return unit * (self.scale / 2).exp()

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"labels": len(batch.extra["sizes"])}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, Term]:
        sizes, label = batch.extra["sizes"], batch.extra["label"]
        group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(batch))
        first = sizes.cumsum(0) - sizes
        mine = torch.ones_like(group, dtype=torch.bool)
        mine[first] = False  # A text is no label of its own.
        logits = (predicted * predicted[first][group]).sum(-1)[mine]
        logs = within(logits, group[mine], len(sizes))
        # Behind the texts of the examples before it and its own, less one for each text left out.
        at = first - torch.arange(len(sizes), device=sizes.device) + label
        return {"labels": Term(-logs[at].sum(), len(sizes))}


def _shown(row: int, right: int, labels: int, count: int) -> tuple[list[int], int]:
    """Which labels are read with a row, and the place of the right one: all, or some drawn by the row's number."""
    if labels <= count:
        return list(range(labels)), right
    draw = np.random.default_rng([0x1ABE1, row])
    others = draw.choice(labels - 1, count - 1, replace=False)
    shown = sorted([right, *(others + (others >= right)).tolist()])
    return shown, shown.index(right)
