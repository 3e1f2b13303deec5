"""A file or folder of training data to examples: roles of its columns, a held-out share, wrong answers looked for.

Files, splits and columns are read, held out and checked by `encodery.rows`. Each split has its own columns, so that raw
sentences can be held against scored pairs. Shapes: E examples, C columns.
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
from encodery.embed.mining import build_pool, false_negative_rate, mine_negatives
from encodery.embed.training import EmbedTraining
from encodery.encoders.dense import DenseEncoder
from encodery.model.load import LoadedModel
from encodery.rows import beir, cells
from encodery.rows.check import check
from encodery.rows.columns import NAMES, Roles, assign_roles, numbered_columns
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits, remove_overlap
from encodery.rows.table import Table

SPLITS = ("train", "dev", "test")
HELD_OUT, OF_FEW, OF_FEWEST = 0.05, 0.15, 0.2  # Shares of many rows, of few, and where that is too little.
ENOUGH_HELD_OUT, MOST_HELD_OUT, LEAST_HELD_OUT = 30, 2000, 10
DECIDING = 50  # So many held-out rows say which weights are the best; on fewer the last are better (STS-B, 100 to 300).
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
"""What columns are called here: a grade or a rating of one text is no score of a pair."""


@dataclass(frozen=True, eq=False)
class EmbedData:
    """`train`, `dev` and `test` where there is any, and what was found, in words. `decides`: whether dev rows are to
    say which weights are the best, as those that were given do, and those held out where they are many enough."""

    train: EmbeddingExamples
    dev: EmbeddingExamples | None = None
    notes: list[str] = field(default_factory=list)
    test: EmbeddingExamples | None = None
    select_on_dev: bool = True


def read_data(path: Path, settings: EmbedTraining, loaded: LoadedModel) -> EmbedData:
    """The data at a path, the same at every call. Raises `InputError` naming file and column, `EmptyInput`."""
    tables, roles, notes = _tables(path, settings.columns, spared=("test",))
    if "train" not in tables:
        raise EmptyInput(f"{path}: has no split 'train' to learn from; there are {', '.join(tables) or 'none'}.")
    if not len(tables["train"]):
        raise EmptyInput(f"{path}: there are no examples to learn from.")
    decides = True
    if "dev" not in tables and set(roles["train"].columns) != {"anchor"}:
        before, tables = tables, hold_out_dev(tables, roles["train"], settings.heldout)
        if "dev" in tables:
            roles["dev"] = roles["train"]
            decides = len(tables["dev"]) >= DECIDING
        notes.append(_parted(before["train"], tables, roles["train"], settings.heldout))
    train = examples_of(tables["train"], roles["train"], settings.num_negatives)
    dev = examples_of(tables["dev"], roles["dev"], settings.num_negatives) if "dev" in tables else None
    if dev is not None and not has_metrics(dev):
        notes.append(
            "dev: has nothing to be judged by (partners, classes, different scores); the last weights are kept"
        )
    test = _judged(tables, roles, settings.num_negatives, notes)
    notes += _findings({name: tables[name] for name in SPLITS if name in tables}, roles)
    train, dev, test = _scaled(train, dev, test)
    if settings.miner is not None:
        train, told = add_mined_negatives(train, settings, loaded)
        notes.append(told)
    return EmbedData(train, dev, notes, test, decides)


def read_splits(
    path: Path, columns: Mapping[str, str], num_negatives: int | None
) -> tuple[dict[str, EmbeddingExamples], list[str]]:
    """The examples of each split of a file or folder, and what its columns were taken for. Raises as `read`."""
    tables, roles, notes = _tables(path, columns)
    return {name: examples_of(table, roles[name], num_negatives) for name, table in tables.items()}, notes


def _tables(
    path: Path, columns: Mapping[str, str], spared: Sequence[str] = ()
) -> tuple[dict[str, Table], dict[str, Roles], list[str]]:
    """Split -> its rows, split -> the roles of its columns, and both in words. Splits that are `spared` may have other
    columns: they are left out then, and that is told."""
    judged = beir.is_beir(path)
    tables = _pairs(path) if judged else read_tables(path)
    roles, notes = dict[str, Roles](), list[str]()
    for name, table in list(tables.items()):
        try:
            roles[name] = assign_roles(table, ("anchor",), columns, TARGET_ROLES, COLUMN_NAMES)
        except InputError as error:
            if name not in spared or "train" not in tables:
                raise
            notes.append(f"{name}: is left out: {error}")
            del tables[name]
        else:
            notes += [] if judged else [f"{name}: {roles[name]}"]
    return tables, roles, notes + [note for table in tables.values() for note in table.warnings]


def _judged(
    tables: Mapping[str, Table], roles: Mapping[str, Roles], wrong: int | None, notes: list[str]
) -> EmbeddingExamples | None:
    """The test examples, None where there are none that can be judged, which is added to the notes."""
    if "test" not in tables:
        return None
    try:
        found = examples_of(tables["test"], roles["test"], wrong)
    except InputError as error:
        notes.append(f"test: is not judged: {error}")
        return None
    if has_metrics(found):
        notes.append(f"test: {len(found):,} examples are judged once, at the end")
        return found
    notes.append("test: has nothing to be judged by (partners, classes, different scores)")
    return None


def examples_of(table: Table, roles: Roles, num_negatives: int | None) -> EmbeddingExamples:
    """A table's rows as examples; a column of lists, or several numbered ones, hold several wrong answers."""
    held = roles.columns
    columns = [cells.texts(table, held[role]) for role in TEXT_ROLES if role in held]
    negatives = [held["negative"]] if "negative" in held else []
    if roles.reasons.get("negative") != "set":
        negatives += [name for name in numbered_columns(table, "negative", COLUMN_NAMES) if name not in held.values()]
    if negatives and len(columns) == 2:
        parts = [list(table[name]) for name in negatives]
        lists = [[text for part in row for text in _listed(part)] for row in zip(*parts, strict=True)]
        columns += negative_columns(lists, num_negatives, columns[1])
    if "scores" in held:
        rows = [[float(value) for value in row] for row in table[held["scores"]]]
        count = min(map(len, rows), default=0)
        columns = columns[: count + 1]
        return EmbeddingExamples(
            tuple(columns), "scores", np.array([row[: len(columns) - 1] for row in rows], np.float32)
        )
    score = held.get("score", held.get("label"))
    if len(columns) == 2 and score is not None:
        return EmbeddingExamples(tuple(columns), "score", cells.numbers(table, score).astype(np.float32))
    if len(columns) == 1 and "label" in held:
        classes = [str(value) for value in table[held["label"]]]
        places = {name: number for number, name in enumerate(sorted(set(classes)))}
        return EmbeddingExamples(tuple(columns), "label", np.array([places[name] for name in classes], np.int64))
    return EmbeddingExamples(tuple(columns))


def hold_out_dev(tables: Mapping[str, Table], roles: Roles, fraction: float | None = None) -> dict[str, Table]:
    """The tables with dev rows out of those of training, by their anchors, so that one question never stands on both
    sides; those left that share another text with them go. `share` of the rows; if not given 5 %, of few rows as many
    as make 30, at most 15 %, or 20 % where that is less than 10. As they are where those are too few to say anything.
    """
    texts = [roles.columns[role] for role in TEXT_ROLES if role in roles.columns]
    rows = max(len(tables["train"]), 1)
    label = roles.columns.get("label") if len(texts) == 1 else None
    usual = min(max(HELD_OUT, min(OF_FEW, ENOUGH_HELD_OUT / rows)), MOST_HELD_OUT / rows)
    for part in (usual, max(usual, OF_FEWEST)) if fraction is None else (fraction,):
        found = fill_missing_splits(tables, texts[:1], label, {"train": 1 - part, "dev": part})
        if len(found.get("dev", ())) >= (LEAST_HELD_OUT if fraction is None else 1):
            return {**found, "train": remove_overlap(found["train"], found["dev"], texts)}
    return dict(tables)


def _parted(before: Table, tables: Mapping[str, Table], roles: Roles, share: float | None) -> str:
    """What was held out of the training rows `before`, in words."""
    if "dev" not in tables:
        why = f"fewer than {LEAST_HELD_OUT} of {len(before):,} would be" if share is None else f"heldout = {share:g}"
        return (
            f"no examples are held out ({why}): nothing tells which weights are the best, so the last ones are kept. "
            "Put dev rows beside them, or set heldout, the share of the rows that become some"
        )
    dev, gone = len(tables["dev"]), len(before) - len(tables["train"]) - len(tables["dev"])
    told = f"{dev:,} of {len(before):,} examples are held out as dev rows, no {roles.columns['anchor']} of theirs stays"
    told += " in training" + (f"; {gone:,} more that share another text with them are left out" if gone else "")
    if dev >= DECIDING:
        return told
    return f"{told}. They tell how good the vectors are; which weights are the best, {dev} cannot: the last are kept"


def add_mined_negatives(
    data: EmbeddingExamples, settings: EmbedTraining, loaded: LoadedModel
) -> tuple[EmbeddingExamples, str]:
    """The examples with `settings.mined` more wrong answers, found with the model as it is, and what was found."""
    assert settings.miner is not None
    if len(data.columns) < 2 or data.target_kind != "none":
        raise SettingsError("mine: wrong answers are looked for where the data has pairs, without scores or classes.")
    embedder = DenseEncoder.from_loaded(loaded) if "vectors" in settings.miner.requires else None
    search = BM25Search(list(dict.fromkeys(data.columns[1]))) if "search" in settings.miner.requires else None
    sides = settings.prompt_names(column_roles(2))
    if embedder is not None:
        sides = [side if side in embedder.settings.prompts else None for side in sides]
    whole = "chunk" if settings.truncate == "chunk" else "right"
    hay, queries = build_pool(data.columns[0], data.columns[1], embedder, (sides[0], sides[1]), None, search, whole)
    seed = derive_seed(settings.train.seed, "mine")
    found = mine_negatives(settings.miner, hay, settings.num_mined_negatives, seed)
    rows = [[hay.passages[int(number)] for number in row if number >= 0] for row in found.numbers]
    more = negative_columns([rows[query] for query in queries], settings.num_mined_negatives, data.columns[1])
    told = (
        f"{(found.numbers >= 0).mean():.0%} of the wrong answers found; {found.filtered_fraction:.1%} of the candidates"
    )
    told += " were too likely right and left out"
    rate = false_negative_rate(settings.miner, hay, settings.num_mined_negatives, seed)
    if rate is not None:
        told += f"; a right answer that nobody labelled would be mined as wrong with a chance of {rate:.1%}"
    return dataclasses.replace(data, columns=(*data.columns, *more)), told


def _pairs(path: Path) -> dict[str, Table]:
    """Split -> a query and a document judged relevant a row, of a collection in BEIR's layout."""
    collection = beir.read_beir(path)
    found = {}
    for split, judged in collection.qrels.items():
        pairs = [
            (collection.queries[query], collection.documents[document])
            for query, documents in judged.items()
            for document, grade in documents.items()
            if grade > 0
        ]
        sides = list(zip(*pairs, strict=True)) or [(), ()]
        found[split] = Table.of(dict(zip(TEXT_ROLES, sides, strict=True)), split)
    return found


def _findings(tables: Mapping[str, Table], roles: Mapping[str, Roles]) -> list[str]:
    """Repeated and empty texts, contradictions, dev and test rows that stand in training: of the splits that have the
    columns of training, raw sentences left aside, of which there may be very many."""
    held = roles["train"].columns
    same = {name: table for name, table in tables.items() if roles[name].columns == held}
    if list(held) == ["anchor"] or ("dev" in tables and "dev" not in same):
        return []
    label = held.get("score", held.get("label"))
    classes = label is not None and "positive" not in held and len(set(map(str, tables["train"][label]))) > 1
    return check(same, [held[role] for role in TEXT_ROLES if role in held], label, classes).messages


def _scaled(
    train: EmbeddingExamples, dev: EmbeddingExamples | None, test: EmbeddingExamples | None
) -> tuple[EmbeddingExamples, EmbeddingExamples | None, EmbeddingExamples | None]:
    """Scores of pairs brought to 0 … 1 by those of training, where they are outside."""
    if train.target_kind != "score" or train.target is None:
        return train, dev, test
    low, high = float(train.target.min()), float(train.target.max())
    if low >= 0 and high <= 1:
        return train, dev, test

    def brought(data: EmbeddingExamples | None) -> EmbeddingExamples | None:
        if data is None or data.target_kind != "score" or data.target is None:
            return data
        return dataclasses.replace(data, target=rescale_scores(data.target, low, high))

    return dataclasses.replace(train, target=rescale_scores(train.target, low, high)), brought(dev), brought(test)


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
