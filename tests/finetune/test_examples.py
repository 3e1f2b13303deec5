"""Examples of some of the rows: equal to what tokenising these rows alone gives, for tasks of every shape of input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.finetune.data import LabelledData
from encodery.finetune.prepared import prepare_data
from encodery.finetune.settings import initial_settings
from encodery.model.load import LoadedModel


@pytest.mark.parametrize("task", ["classify", "tag", "multilabel", "span", "pair", "choice", "rank"])
def test_examples_of_rows_equal_those_of_the_rows_alone(
    task: str, rows: Callable[..., dict[str, list[Any]]], loaded: LoadedModel, tmp_path: Path
) -> None:
    columns = rows(task, 30, 0)
    settings = initial_settings(task, {"max_length": 24, "truncate": "chunk" if task in ("tag", "span") else "right"})
    data = LabelledData.from_splits(settings.task, {"train": columns, "dev": columns})
    prepared = prepare_data(settings, loaded, data)
    assert prepared.dev is not None
    all_rows, examples = prepared.dev
    sample = np.array([0, 3, 4, 11, 28])
    alone = {role: [values[row] for row in sample] for role, values in all_rows.items()}
    expected = settings.task.prepare(alone, prepared.preprocessor, prepared.metadata, False)
    actual = examples.of_rows(sample)
    for field in dataclasses.fields(expected):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        tables = (one, other) if isinstance(other, dict) else ({"": one}, {"": other})
        assert tables[0].keys() == tables[1].keys()
        for name, values in tables[1].items():
            if values is not None:
                np.testing.assert_array_equal(tables[0][name], values, err_msg=f"{field.name} {name}")
                assert tables[0][name].dtype == values.dtype, field.name
