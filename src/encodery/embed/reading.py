"""Read a file or folder of training data as examples: roles of columns, held-out rows, mined negatives.

Files, splits and columns are read, held out and checked by `encodery.rows`. Each split has its own columns, so that raw
sentences can be trained on with scored pairs as dev rows. Shapes: E examples, C columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.base.machine import derive_seed
from encodery.embed.bm25_search import BM25Search
from encodery.embed.examples import EmbeddingExamples, column_roles, negative_columns, rescale_scores
from encodery.embed.heldout_metrics import has_metrics
from encodery.embed.mining import build_pool, false_negative_rate, mine_negatives, mining_notes
from encodery.embed.training import EmbedTraining
from encodery.encoders.loading import load_dense
from encodery.model.load import LoadedModel
from encodery.rows import beir, cells
from encodery.rows.check import check
from encodery.rows.columns import NAMES, Roles, assign_roles, numbered_columns
from encodery.rows.labelled import SPLITS, LabelledTables, assign_by_split, has_classes, hold_out
from encodery.rows.read import read_tables
from encodery.rows.table import Table

HELDOUT_FRACTION, FEW_ROWS_FRACTION, FEWEST_ROWS_FRACTION = 0.05, 0.15, 0.2
ENOUGH_HELDOUT, MAX_HELDOUT, MIN_HELDOUT = 30, 2000, 10  # dev rows
MIN_SELECTING = 50  # Fewer dev rows do not select weights: the last ones are better (STS-B, 100 to 300 rows).
TEXT_ROLES = ("anchor", "positive")
TARGET_ROLES = ("positive", "negative", "score", "scores", "label")
COLUMN_NAMES: Mapping[str, Sequence[str]] = {
    **NAMES,
    "anchor": ("anchor", "query", *NAMES["question"], *NAMES["text_a"]),
    "positive": (*NAMES["positive"], *NAMES["context"], *NAMES["text_b"]),
    "score": ("score", "similarity", "similarity_score"),
    "scores": ("scores", "teacher_scores"),
    "label": ("label", "class", "category", "intent"),
}
"""The names of columns by role; a grade or a rating of a single text is no score of a pair."""
NO_METRICS = "has nothing to compute metrics from: no positives, no classes, and no two different scores"


@dataclass(frozen=True, eq=False)
class EmbedData:
    """The data of a run.

    Args:
        train: the training examples.
        dev: examples that are evaluated during training.
        notes: lines for the user about what was read.
        test: examples that are evaluated once, at the end.
        select_on_dev: whether the weights with the best dev metric are kept; not if few rows were held out.
    """

    train: EmbeddingExamples
    dev: EmbeddingExamples | None = None
    notes: list[str] = field(default_factory=list)
    test: EmbeddingExamples | None = None
    select_on_dev: bool = True


def read_data(path: Path, settings: EmbedTraining, loaded: LoadedModel) -> EmbedData:
    """Read the data at a path; the same at every call.

    Raises `InputError` naming file and column, `EmptyInput` if there is nothing to train on.
    """
    read = _read_tables(path, settings.columns, optional=("test",))
    tables, roles, notes = read.tables, read.roles, read.notes
    if "train" not in tables:
        raise EmptyInput(f"{path}: has no split 'train'; the splits are {', '.join(tables) or 'none'}.")
    if not len(tables["train"]):
        raise EmptyInput(f"{path}: the split 'train' has no rows.")
    select_on_dev = True
    if "dev" not in tables and set(roles["train"].columns) != {"anchor"}:
        tables, more = hold_out_dev(tables, roles["train"], settings.heldout)
        notes += more
        if "dev" in tables:
            roles["dev"] = roles["train"]
            select_on_dev = len(tables["dev"]) >= MIN_SELECTING
    train = examples_of(tables["train"], roles["train"], settings.num_negatives)
    dev = examples_of(tables["dev"], roles["dev"], settings.num_negatives) if "dev" in tables else None
    if dev is not None and not has_metrics(dev):
        notes.append(f"dev: {NO_METRICS}; the last weights are kept")
    test = _test_examples(tables, roles, settings.num_negatives, notes)
    notes += _findings({name: tables[name] for name in SPLITS if name in tables}, roles)
    train, dev, test = _rescaled(train, dev, test)
    if settings.miner is not None:
        train, more = add_mined_negatives(train, settings, loaded)
        notes += more
    return EmbedData(train, dev, notes, test, select_on_dev)


def read_splits(
    path: Path, columns: Mapping[str, str], num_negatives: int | None
) -> tuple[dict[str, EmbeddingExamples], list[str]]:
    """Return the examples of each split of a file or folder, and notes on its columns. Raises like `read_data`."""
    read = _read_tables(path, columns)
    return {
        name: examples_of(table, read.roles[name], num_negatives) for name, table in read.tables.items()
    }, read.notes


def examples_of(table: Table, roles: Roles, num_negatives: int | None) -> EmbeddingExamples:
    """Return the rows of a table as examples; a column of lists, or several numbered ones, hold several negatives."""
    columns_of = roles.columns
    columns = [cells.texts(table, columns_of[role]) for role in TEXT_ROLES if role in columns_of]
    negatives = [columns_of["negative"]] if "negative" in columns_of else []
    if roles.reasons.get("negative") != "set":
        numbered = numbered_columns(table, "negative", COLUMN_NAMES)
        negatives += [name for name in numbered if name not in columns_of.values()]
    if negatives and len(columns) == 2:
        parts = [list(table[name]) for name in negatives]
        lists = [[text for part in row for text in _as_list(part)] for row in zip(*parts, strict=True)]
        columns += negative_columns(lists, num_negatives, columns[1])
    if "scores" in columns_of:
        rows = [[float(value) for value in row] for row in table[columns_of["scores"]]]
        count = min(map(len, rows), default=0)
        columns = columns[: count + 1]
        scores = np.array([row[: len(columns) - 1] for row in rows], np.float32)
        return EmbeddingExamples(tuple(columns), "scores", scores)
    score = columns_of.get("score", columns_of.get("label"))
    if len(columns) == 2 and score is not None:
        return EmbeddingExamples(tuple(columns), "score", cells.numbers(table, score).astype(np.float32))
    if len(columns) == 1 and "label" in columns_of:
        labels = [str(value) for value in table[columns_of["label"]]]
        numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
        target = np.array([numbers[label] for label in labels], np.int64)
        return EmbeddingExamples(tuple(columns), "label", target)
    return EmbeddingExamples(tuple(columns))


def hold_out_dev(
    tables: Mapping[str, Table], roles: Roles, fraction: float | None = None
) -> tuple[dict[str, Table], list[str]]:
    """Hold out dev rows by their anchors, so that no anchor is on both sides; training rows that share another text
    with them are removed.

    `fraction` of the rows; by default 5 %; of few rows as many as make 30, at most 15 %, or 20 % where that is less
    than 10. Returns the tables, unchanged where there are too few rows, and notes for the user.
    """
    texts = [roles.columns[role] for role in TEXT_ROLES if role in roles.columns]
    rows = max(len(tables["train"]), 1)
    label = roles.columns.get("label") if len(texts) == 1 else None
    default = min(max(HELDOUT_FRACTION, min(FEW_ROWS_FRACTION, ENOUGH_HELDOUT / rows)), MAX_HELDOUT / rows)
    minimum = MIN_HELDOUT if fraction is None else 1
    for part in (default, max(default, FEWEST_ROWS_FRACTION)) if fraction is None else (fraction,):
        split, notes = hold_out(tables, texts[:1], {"dev": part}, label, texts, minimum)
        if "dev" not in split:
            continue
        count = len(split["dev"])
        if count < MIN_SELECTING:
            notes.append(f"dev: {count} rows are too few to select the best weights: the last ones are kept")
        return split, notes
    reason = f"fewer than {minimum} of {rows:,} rows" if fraction is None else f"heldout = {fraction:g}"
    return dict(tables), [
        f"no dev rows are held out ({reason}): the last weights are kept. Add dev rows, or set heldout, the fraction "
        "of the training rows that become dev rows"
    ]


def add_mined_negatives(
    data: EmbeddingExamples, settings: EmbedTraining, loaded: LoadedModel
) -> tuple[EmbeddingExamples, list[str]]:
    """Return the examples with `settings.num_mined_negatives` more negatives, mined with the model before training, and
    notes on them."""
    assert settings.miner is not None
    if len(data.columns) < 2 or data.target_kind != "none":
        raise SettingsError("miner: negatives are mined for pairs without scores or classes; leave miner out.")
    encoder = load_dense(loaded) if "vectors" in settings.miner.requires else None
    search = BM25Search(list(dict.fromkeys(data.columns[1]))) if "search" in settings.miner.requires else None
    query, document = settings.prompt_names(column_roles(2))
    if encoder is not None:
        query, document = (name if name in encoder.prompts else None for name in (query, document))
    truncate = "chunk" if settings.truncate == "chunk" else "right"
    anchors, positives = data.columns[:2]
    pool, queries = build_pool(anchors, positives, encoder, (query, document), None, search, truncate)
    seed = derive_seed(settings.train.seed, "mine")
    mined = mine_negatives(settings.miner, pool, settings.num_mined_negatives, seed)
    lists = [[pool.passages[int(index)] for index in row if index >= 0] for row in mined.indices]
    more = negative_columns([lists[query] for query in queries], settings.num_mined_negatives, positives)
    rate = false_negative_rate(settings.miner, pool, settings.num_mined_negatives, seed)
    return dataclasses.replace(data, columns=(*data.columns, *more)), mining_notes(mined, rate)


def _read_tables(path: Path, columns: Mapping[str, str], optional: Sequence[str] = ()) -> LabelledTables:
    """The splits of a file or folder; those that are `optional` are left out, with a note, if they lack columns."""
    is_beir = beir.is_beir(path)
    tables = _beir_pairs(path) if is_beir else read_tables(path)
    read = assign_by_split(
        tables, lambda table: assign_roles(table, ("anchor",), columns, TARGET_ROLES, COLUMN_NAMES), optional
    )
    return dataclasses.replace(read, notes=[]) if is_beir else read


def _test_examples(
    tables: Mapping[str, Table], roles: Mapping[str, Roles], num_negatives: int | None, notes: list[str]
) -> EmbeddingExamples | None:
    """The test examples; None, with a note, if there are none that can be evaluated."""
    if "test" not in tables:
        return None
    try:
        test = examples_of(tables["test"], roles["test"], num_negatives)
    except InputError as error:
        notes.append(f"test: not evaluated: {error}")
        return None
    if has_metrics(test):
        notes.append(f"test: {len(test):,} examples are evaluated once, at the end")
        return test
    notes.append(f"test: {NO_METRICS}")
    return None


def _beir_pairs(path: Path) -> dict[str, Table]:
    """Split -> rows of a query and a relevant document, of a data set in BEIR's layout."""
    dataset = beir.read_beir(path)
    tables = {}
    for split, qrels in dataset.qrels.items():
        pairs = [
            (dataset.queries[query], dataset.documents[document])
            for query, documents in qrels.items()
            for document, grade in documents.items()
            if grade > 0
        ]
        columns = list(zip(*pairs, strict=True)) or [(), ()]
        tables[split] = Table.of(dict(zip(TEXT_ROLES, columns, strict=True)), split)
    return tables


def _findings(tables: Mapping[str, Table], roles: Mapping[str, Roles]) -> list[str]:
    """Repeated and empty texts, contradictions, dev and test rows that are also in training, of the splits with the
    columns of training; not of raw sentences, of which there may be very many."""
    columns = roles["train"].columns
    same = {name: table for name, table in tables.items() if roles[name].columns == columns}
    if list(columns) == ["anchor"] or ("dev" in tables and "dev" not in same):
        return []
    label = columns.get("score", columns.get("label"))
    classes = label is not None and "positive" not in columns and has_classes(tables["train"], label)
    return check(same, [columns[role] for role in TEXT_ROLES if role in columns], label, classes).messages


def _rescaled(
    train: EmbeddingExamples, dev: EmbeddingExamples | None, test: EmbeddingExamples | None
) -> tuple[EmbeddingExamples, EmbeddingExamples | None, EmbeddingExamples | None]:
    """Scores of pairs rescaled to 0 … 1 by the range of those of training, if that is wider."""
    if train.target_kind != "score" or train.target is None:
        return train, dev, test
    low, high = float(train.target.min()), float(train.target.max())
    if low >= 0 and high <= 1:
        return train, dev, test

    def rescale(data: EmbeddingExamples | None) -> EmbeddingExamples | None:
        if data is None or data.target_kind != "score" or data.target is None:
            return data
        return dataclasses.replace(data, target=rescale_scores(data.target, low, high))

    return dataclasses.replace(train, target=rescale_scores(train.target, low, high)), rescale(dev), rescale(test)


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
