"""Examples of rows with one prediction each, and how the windows of a row are joined.

Shapes: n tokens of a sequence, R rows, E examples, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.token_matching import TEXT_INDEX, text_indices
from encodery.finetune.preprocess import InputSequence, Preprocessor
from encodery.finetune.task_types import Rows, TaskMetadata


def encode_rows(rows: Rows, preprocessor: Preprocessor) -> tuple[list[list[InputSequence]], list[int]]:
    """Return the sequences of each row's text or two texts, and how many tokens of each row were dropped (R)."""
    if "text_b" in rows:
        return preprocessor.encode_pairs(rows["text"], rows["text_b"])
    return preprocessor.encode_texts(rows["text"])


def token_marks(sequences: Sequence[InputSequence], metadata: TaskMetadata) -> dict[str, np.ndarray]:
    """Return what a head needs to know of each token of an example's sequences."""
    if not metadata.token_matching:
        return {}
    return {TEXT_INDEX: np.concatenate([text_indices(sequence) for sequence in sequences])}


def examples_of_rows(
    sequences: Sequence[Sequence[InputSequence]],
    dropped: Sequence[int],
    preprocessor: Preprocessor,
    metadata: TaskMetadata,
    targets: Mapping[str, np.ndarray],
) -> Examples:
    """Return an example for each sequence of each row, with the targets (R, …) of its row."""
    builder = ExampleBuilder(preprocessor.uses_segments)
    for row, own in enumerate(sequences):
        row_targets = {name: values[row] for name, values in targets.items()}
        for sequence in own:
            builder.add(row, [sequence], row_targets, token_marks([sequence], metadata))
    return builder.build(dropped)


def mean_over_windows(outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
    """Return (R, C) the mean of the outputs (C,) of each row's windows, weighted by their lengths."""
    stacked = np.stack(outputs).astype(np.float64)
    weights = examples.lengths.astype(np.float64)
    weights /= np.bincount(examples.row, weights=weights, minlength=examples.num_rows)[examples.row]
    mean = np.zeros((examples.num_rows, stacked.shape[1]))
    np.add.at(mean, examples.row, stacked * weights[:, None])
    return mean
