"""Retrieval data in BEIR's layout, judgements and runs in TREC's. arXiv:2104.08663

corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels/SPLIT.tsv (query, document, grade), also compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from encodery.base.artifact import atomic_write
from encodery.base.errors import EmptyInput, InputError
from encodery.rows.read import SPLITS, json_rows
from encodery.rows.text_files import COMPRESSIONS, file_format, open_text

Qrels = dict[str, dict[str, int]]
SHOWN = 5


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """`documents` (title and text) and `queries` by id; `judgements`: split -> query -> document -> grade."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, Qrels]

    def missing_documents(self, split: str) -> list[tuple[str, str]]:
        """Query and document where a relevant document is not among the documents: no system can find it."""
        judged = self.qrels[split].items()
        return [(q, d) for q, found in judged for d, grade in found.items() if grade > 0 and d not in self.documents]


def is_beir(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "qrels").is_dir()


def read_beir(folder: str | Path, missing: Literal["error", "keep"] = "error") -> RetrievalDataset:
    """The collection of a folder. `absent`: what to do about judged documents that the corpus lacks.

    Raises `InputError` naming file and line for ids that stand twice, judgements of no query, broken lines, and for
    absent documents unless they are kept.
    """
    at = Path(folder)
    documents = {key: f"{title} {text}".strip() for key, title, text in _texts(_file(at, "corpus.jsonl"), "document")}
    queries = {key: text for key, _, text in _texts(_file(at, "queries.jsonl"), "query")}
    judgements = {split: read_qrels(path) for split, path in _judged(at / "qrels").items()}
    found = RetrievalDataset(documents, queries, judgements)
    for split, grades in judgements.items():
        foreign = [query for query in grades if query not in queries]
        if foreign:
            raise InputError(f"{at}, {split}: judges queries that are not among the queries: {_some(foreign)}.")
        lost = [document for _, document in found.missing_documents(split)]
        if lost and missing == "error":
            raise InputError(f"{at}, {split}: judges documents that the corpus lacks: {_some(lost)}.")
    return found


def read_qrels(path: str | Path) -> Qrels:
    """Query -> document -> grade, of BEIR's three columns (with or without a first line of names) or TREC's four.

    Raises `InputError` naming the line, also where a document is judged twice with different grades.
    """
    grades: Qrels = {}
    for number, line in _lines(Path(path)):
        cells = line.split("\t") if line.count("\t") == 2 else line.split()
        if number == 1 and len(cells) == 3 and not _whole(cells[2]):
            continue
        if len(cells) not in (3, 4) or not _whole(cells[-1]):
            raise InputError(
                f"{path}, line {number}: query, document and a whole number are needed, not {line[:60]!r}."
            )
        query, document, grade = cells[0], cells[-2], int(float(cells[-1]))
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{path}, line {number}: query '{query}' and document '{document}' have two grades.")
    if not grades:
        raise EmptyInput(f"{path}: holds no judgements.")
    return grades


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """A TREC judgement file: query 0 document grade. Raises `InputError` for an id with a blank in it."""
    lines = (f"{_id(q)} 0 {_id(d)} {grade}\n" for q, found in qrels.items() for d, grade in found.items())
    atomic_write(path, "".join(lines))


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Query -> document -> score, of a TREC run file. Raises `InputError` naming the line."""
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(Path(path)):
        cells = line.split()
        try:
            query, _, document, _, score = cells[:5]
            value = float(score)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: query Q0 document rank score name are needed, not {line[:60]!r}."
            ) from error
        if document in run.setdefault(query, {}):
            raise InputError(f"{path}, line {number}: query '{query}' has the document '{document}' twice.")
        run[query][document] = value
    return run


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], system: str) -> None:
    """A TREC run file: query Q0 document rank score system; equal scores by document id, descending, as trec_eval has
    it. Scores keep all their digits, so that the order is the same when read. Raises `InputError` for an id with a
    blank in it."""
    tag, lines = "_".join(system.split()) or "run", []
    for query, found in run.items():
        ordered = sorted(found.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        lines += [f"{_id(query)} Q0 {_id(d)} {rank} {float(s)!r} {tag}\n" for rank, (d, s) in enumerate(ordered, 1)]
    atomic_write(path, "".join(lines))


def _texts(path: Path, what: str) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of each row."""
    seen: set[str] = set()
    for number, row in json_rows(path):
        where, key, text = f"{path}, line {number}", row.get("_id"), row.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InputError(f"{where}: a {what} has '_id' and 'text'; this row has {', '.join(row)}.")
        if str(key) in seen:
            raise InputError(f"{where}: the {what} '{key}' stands twice.")
        seen.add(str(key))
        yield str(key), str(row.get("title") or ""), text
    if not seen:
        raise EmptyInput(f"{path}: holds no {what}.")


def _judged(folder: Path) -> dict[str, Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    named = {path.name.split(".")[0].lower(): path for path in files if file_format(path) in (".tsv", ".qrels", ".txt")}
    found = {SPLITS.get(name, name): path for name, path in named.items()}
    if not found:
        raise InputError(f"{folder}: holds no judgements, such as test.tsv.")
    return found


def _file(folder: Path, name: str) -> Path:
    for ending in ("", *COMPRESSIONS):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    raise InputError(f"{folder / name}: no such file; BEIR's layout is corpus.jsonl, queries.jsonl, qrels/test.tsv.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path, None) as (text, _):
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line.strip()


def _whole(cell: str) -> bool:
    try:
        return float(cell).is_integer()
    except ValueError:
        return False


def _id(key: str) -> str:
    if not key or key.split() != [key]:
        raise InputError(f"The id {key!r} cannot stand in a TREC file, whose cells are parted by blanks.")
    return key


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
