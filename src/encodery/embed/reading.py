"""A file or folder of training data to examples: roles of its columns, a held-out share, wrong answers looked for.

Files and splits are read by `encodery.rows`. Each split has its own columns, so that raw sentences can be held against
scored pairs. Shapes: E examples, C columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import EmptyInput, InputError, SettingsError, nearest
from encodery.base.machine import derive_seed
from encodery.embed.data import Labelled, scaled, wrong_answers
from encodery.embed.embedder import Embedder
from encodery.embed.mining import haystack, hidden_right, mine
from encodery.embed.training import EmbedTraining
from encodery.embed.word_search import WordSearch
from encodery.model.load import Loaded
from encodery.rows import beir
from encodery.rows.read import read as read_tables
from encodery.rows.table import Table

SIDES = ("query", "document")
HELD_OUT = 0.05
MOST_HELD_OUT = 2000
ROLES: Mapping[str, tuple[str, ...]] = {
    "anchor": ("anchor", "query", "question", "sentence1", "text1", "text_a", "a", "premise", "sentence", "text"),
    "positive": (
        *("positive", "pos", "answer", "passage", "document", "context", "response", "sentence2", "text2", "text_b"),
        *("b", "hypothesis"),
    ),
    "negative": ("negative", "negatives", "neg", "hard_negative", "hard_negatives"),
    "score": ("score", "similarity", "similarity_score"),
    "scores": ("scores", "teacher_scores"),
    "label": ("label", "class", "category", "intent"),
}


@dataclass(frozen=True, eq=False)
class Read:
    """`train`, `dev` where there is any, and what was found, in words."""

    train: Labelled
    dev: Labelled | None
    notes: list[str] = field(default_factory=list)


def read(path: Path, settings: EmbedTraining, loaded: Loaded) -> Read:
    """The data at a path, the same at every call. Raises `InputError` naming file and column, `EmptyInput`."""
    splits, notes = opened(path, settings.columns, settings.wrong)
    if "train" not in splits:
        raise EmptyInput(f"{path}: has no split 'train' to learn from; there are {', '.join(splits) or 'none'}.")
    train, dev = splits["train"], splits.get("dev")
    if not len(train):
        raise EmptyInput(f"{path}: there are no examples to learn from.")
    if dev is None and not train.raw:
        train, dev = held_out(train)
        if dev is not None:
            notes.append(f"{len(dev):,} examples held out, no text of theirs stays in training")
    train, dev = _scaled(train, dev)
    if settings.mine is not None:
        train, told = mined(train, settings, loaded)
        notes.append(told)
    return Read(train, dev, notes)


def opened(path: Path, columns: Mapping[str, str], wrong: int | None) -> tuple[dict[str, Labelled], list[str]]:
    """The examples of each split of a file or folder, and what its columns were taken for. Raises as `read`."""
    if beir.is_beir(path):
        return _beir(path), []
    tables = read_tables(path)
    roles = {name: roles_of(table, columns, f"{path}, {name}") for name, table in tables.items()}
    notes = [f"{name}: {_told(found)}" for name, found in roles.items()]
    notes += [note for table in tables.values() for note in table.notes]
    return {name: examples(table, roles[name], wrong) for name, table in tables.items()}, notes


def roles_of(table: Table, given: Mapping[str, str], where: str) -> dict[str, list[str]]:
    """Role -> its columns. Those told are taken at their word, the others guessed by name.

    Raises `InputError` for a column that is not there, `SettingsError` for a role that is none.
    """
    names = list(table.names)
    found: dict[str, list[str]] = {}
    for role, column in given.items():
        if role not in ROLES:
            raise SettingsError(f"columns.{role}: is no role.{nearest(role, ROLES)} Known: {', '.join(ROLES)}.")
        if column not in names and column != "none":
            raise InputError(f"{where}: has no column '{column}'.{nearest(column, names)} It has {', '.join(names)}.")
        found[role] = [] if column == "none" else [column]
    taken = {column for columns in found.values() for column in columns}
    for role, usual in ROLES.items():
        if role in found:
            continue
        match = next((name for name in usual if name in names and name not in taken), None)
        found[role] = [] if match is None else [match]
        taken.update(found[role])
    if "negative" not in given:
        found["negative"] += [name for name in names if _numbered(name) and name not in taken]
    if not found["anchor"]:
        raise InputError(
            f"{where}: which column holds the texts? Columns are {', '.join(names)}; say columns.anchor=NAME."
        )
    return {role: columns for role, columns in found.items() if columns}


def examples(table: Table, roles: Mapping[str, Sequence[str]], wrong: int | None) -> Labelled:
    """A table's rows as examples; a column of lists holds several wrong answers, or a teacher's scores."""
    columns = [_texts(table, roles[role][0]) for role in ("anchor", "positive") if role in roles]
    if "negative" in roles and len(columns) == 2:
        parts = [list(table[name]) for name in roles["negative"]]
        lists = [[text for part in row for text in _listed(part)] for row in zip(*parts, strict=True)]
        columns += wrong_answers(lists, wrong, columns[1])
    if "scores" in roles:
        rows = [[float(value) for value in row] for row in table[roles["scores"][0]]]
        count = min(map(len, rows), default=0)
        columns = columns[: count + 1]
        return Labelled(tuple(columns), "scores", np.array([row[: len(columns) - 1] for row in rows], np.float32))
    if len(columns) == 2 and "score" in roles:
        return Labelled(tuple(columns), "score", _numbers(table, roles["score"][0]))
    if len(columns) == 2 and "label" in roles:
        return Labelled(tuple(columns), "score", _numbers(table, roles["label"][0]))
    if len(columns) == 1 and "label" in roles:
        classes = [str(value) for value in table[roles["label"][0]]]
        places = {name: number for number, name in enumerate(sorted(set(classes)))}
        return Labelled(tuple(columns), "label", np.array([places[name] for name in classes], np.int64))
    return Labelled(tuple(columns))


def held_out(data: Labelled) -> tuple[Labelled, Labelled | None]:
    """A share of the examples apart, by their anchors, so that one question never stands on both sides; those left in
    training that share another text with them go. None where there would be too few to say anything."""
    anchors = data.columns[0]
    share = min(HELD_OUT, MOST_HELD_OUT / max(len(data), 1))
    apart = np.array([derive_seed("held out", text) / 2**63 < share for text in anchors], bool)
    if apart.sum() < 10 or apart.all():
        return data, None
    if data.kind == "label":
        return data.take(np.flatnonzero(~apart)), data.take(np.flatnonzero(apart))
    seen = {column[i] for column in data.columns[:2] for i in np.flatnonzero(apart)}
    leaks = np.array([any(column[i] in seen for column in data.columns[:2]) for i in range(len(data))], bool)
    stay = np.flatnonzero(~apart & ~leaks)
    if len(stay) < 0.5 * len(data):  # A few texts are everywhere: only the anchors are kept apart then.
        stay = np.flatnonzero(~apart)
    return data.take(stay), data.take(np.flatnonzero(apart))


def mined(data: Labelled, settings: EmbedTraining, loaded: Loaded) -> tuple[Labelled, str]:
    """The examples with `settings.mined` more wrong answers, found with the model as it is, and what was found."""
    assert settings.mine is not None
    if len(data.columns) < 2 or data.kind != "none":
        raise SettingsError("mine: wrong answers are looked for where the data has pairs, without scores or classes.")
    embedder = Embedder.of(loaded) if "vectors" in settings.mine.wants else None
    search = WordSearch(list(dict.fromkeys(data.columns[1]))) if "search" in settings.mine.wants else None
    sides = [settings.sides.get(side, side if side in settings.embed.prompts else None) for side in SIDES]
    if embedder is not None:
        sides = [side if side in embedder.settings.prompts else None for side in sides]
    hay, queries = haystack(data.columns[0], data.columns[1], embedder, (sides[0], sides[1]), None, search)
    seed = derive_seed(settings.train.seed, "mine")
    found = mine(settings.mine, hay, settings.mined, seed)
    rows = [[hay.passages[int(number)] for number in row if number >= 0] for row in found.numbers]
    more = wrong_answers([rows[query] for query in queries], settings.mined, data.columns[1])
    told = f"{(found.numbers >= 0).mean():.0%} of the wrong answers found; {found.suspects:.1%} of the candidates"
    told += " were too likely right and left out"
    rate = hidden_right(settings.mine, hay, settings.mined, seed)
    if rate is not None:
        told += f"; a right answer that nobody labelled would be mined as wrong with a chance of {rate:.1%}"
    return dataclasses.replace(data, columns=(*data.columns, *more)), told


def _beir(path: Path) -> dict[str, Labelled]:
    """Pairs of a query and each document judged relevant, by split."""
    collection = beir.read(path)
    found = {}
    for split, judged in collection.judgements.items():
        pairs = [
            (collection.queries[query], collection.documents[document])
            for query, documents in judged.items()
            for document, grade in documents.items()
            if grade > 0
        ]
        found[split] = Labelled(tuple([list(side) for side in zip(*pairs, strict=True)] or ([], [])))
    return found


def _scaled(train: Labelled, dev: Labelled | None) -> tuple[Labelled, Labelled | None]:
    """Scores of pairs brought to 0 … 1 by those of training, where they are outside."""
    if train.kind != "score" or train.target is None:
        return train, dev
    low, high = float(train.target.min()), float(train.target.max())
    if low >= 0 and high <= 1:
        return train, dev
    train = dataclasses.replace(train, target=scaled(train.target, low, high))
    if dev is not None and dev.kind == "score" and dev.target is not None:
        dev = dataclasses.replace(dev, target=scaled(dev.target, low, high))
    return train, dev


def _texts(table: Table, name: str) -> list[str]:
    found = list(table[name])
    for number, value in enumerate(found):
        if not isinstance(value, str):
            kind = "empty" if value is None else f"no text but {type(value).__name__}"
            raise InputError(f"{table.where(number)}: column '{name}' is {kind}.")
    return found


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _numbers(table: Table, name: str) -> np.ndarray:
    """Scores of a column. Raises `InputError` naming the first that is no number."""
    found = np.empty(len(table), np.float32)
    for number, value in enumerate(table[name]):
        try:
            found[number] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{table.where(number)}: column '{name}' is {value!r}; pairs are scored with numbers, or labelled 0 "
                "and 1."
            ) from error
        if not np.isfinite(found[number]):
            raise InputError(f"{table.where(number)}: column '{name}' is {value!r}, which is no score.")
    return found


def _numbered(name: str) -> bool:
    """negative_1, negative2, neg_3."""
    stem = name.rstrip("0123456789").rstrip("_")
    return stem != name and stem in ROLES["negative"]


def _told(roles: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{role} = {' + '.join(columns)}" for role, columns in roles.items())
