"""Read and write retrieval data in the layout of BEIR (arXiv:2104.08663), and relevance judgements and runs of TREC.

BEIR: corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels/SPLIT.tsv (query, document, grade). The files
may be compressed.
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
MAX_SHOWN = 5


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """`documents` (title and text) and `queries` by id; `qrels`: split -> query -> document -> grade."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, Qrels]

    def missing_documents(self, split: str) -> list[tuple[str, str]]:
        """Return (query, document) of each relevant document that is not among the documents."""
        return [
            (query, document)
            for query, grades in self.qrels[split].items()
            for document, grade in grades.items()
            if grade > 0 and document not in self.documents
        ]


def is_beir(folder: Path) -> bool:
    """Return whether a folder has the layout of BEIR."""
    return (folder / "qrels").is_dir()


def read_beir(folder: str | Path, missing: Literal["error", "keep"] = "error") -> RetrievalDataset:
    """Read a folder in the layout of BEIR.

    Args:
        missing: what to do about relevant documents that are not in the corpus: "error", or "keep" the judgement.

    Raises `InputError` naming file and line for duplicate ids, judgements of unknown queries, broken lines, and missing
    documents unless they are kept.
    """
    root = Path(folder)
    documents = {key: f"{title} {text}".strip() for key, title, text in _texts(_file(root, "corpus.jsonl"), "document")}
    queries = {key: text for key, _, text in _texts(_file(root, "queries.jsonl"), "query")}
    qrels = {split: read_qrels(path) for split, path in _qrels_files(root / "qrels").items()}
    dataset = RetrievalDataset(documents, queries, qrels)
    for split, grades in qrels.items():
        unknown = [query for query in grades if query not in queries]
        if unknown:
            raise InputError(f"{root}, {split}: judges unknown queries: {_listed(unknown)}.")
        absent = [document for _, document in dataset.missing_documents(split)]
        if absent and missing == "error":
            raise InputError(f"{root}, {split}: judges documents that are not in the corpus: {_listed(absent)}.")
    return dataset


def read_qrels(path: str | Path) -> Qrels:
    """Read relevance judgements: query -> document -> grade.

    The file has the three columns of BEIR (with or without a header) or the four of TREC.
    Raises `InputError` naming the line, also if a document is judged twice with different grades.
    """
    grades: Qrels = {}
    for number, line in _lines(Path(path)):
        cells = line.split("\t") if line.count("\t") == 2 else line.split()
        if number == 1 and len(cells) == 3 and not _is_integer(cells[2]):
            continue
        if len(cells) not in (3, 4) or not _is_integer(cells[-1]):
            raise InputError(
                f"{path}, line {number}: a query, a document and an integer are needed, not {line[:60]!r}."
            )
        query, document, grade = cells[0], cells[-2], int(float(cells[-1]))
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(f"{path}, line {number}: query '{query}' and document '{document}' have two grades.")
    if not grades:
        raise EmptyInput(f"{path}: contains no judgements.")
    return grades


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write a TREC judgement file: query 0 document grade. Raises `InputError` for an id that contains whitespace."""
    lines = (f"{_id(q)} 0 {_id(d)} {grade}\n" for q, grades in qrels.items() for d, grade in grades.items())
    atomic_write(path, "".join(lines))


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a TREC run file: query -> document -> score. Raises `InputError` naming the line."""
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(Path(path)):
        cells = line.split()
        try:
            query, _, document, _, score = cells[:5]
            value = float(score)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: 'query Q0 document rank score name' is needed, not {line[:60]!r}."
            ) from error
        if document in run.setdefault(query, {}):
            raise InputError(f"{path}, line {number}: query '{query}' has the document '{document}' twice.")
        run[query][document] = value
    return run


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], system: str) -> None:
    """Write a TREC run file: query Q0 document rank score system.

    Documents of equal score are ordered by id, descending, as in trec_eval. Scores keep all digits, so that the order
    is the same when the file is read. Raises `InputError` for an id that contains whitespace.
    """
    tag, lines = "_".join(system.split()) or "run", []
    for query, scores in run.items():
        ordered = sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        lines += [f"{_id(query)} Q0 {_id(d)} {rank} {float(s)!r} {tag}\n" for rank, (d, s) in enumerate(ordered, 1)]
    atomic_write(path, "".join(lines))


def _texts(path: Path, noun: str) -> Iterator[tuple[str, str, str]]:
    """Yield (id, title, text) of each row."""
    seen: set[str] = set()
    for number, row in json_rows(path):
        where, key, text = f"{path}, line {number}", row.get("_id"), row.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InputError(f"{where}: a {noun} needs '_id' and 'text'; this row has {', '.join(row)}.")
        if str(key) in seen:
            raise InputError(f"{where}: the {noun} '{key}' occurs twice.")
        seen.add(str(key))
        yield str(key), str(row.get("title") or ""), text
    if not seen:
        raise EmptyInput(f"{path}: contains no {noun}.")


def _qrels_files(folder: Path) -> dict[str, Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    named = {path.name.split(".")[0].lower(): path for path in files if file_format(path) in (".tsv", ".qrels", ".txt")}
    by_split = {SPLITS.get(name, name): path for name, path in named.items()}
    if not by_split:
        raise InputError(f"{folder}: contains no judgements, such as test.tsv.")
    return by_split


def _file(folder: Path, name: str) -> Path:
    for suffix in ("", *COMPRESSIONS):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise InputError(
        f"{folder / name}: no such file; the layout of BEIR is corpus.jsonl, queries.jsonl, qrels/test.tsv."
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path, None) as (text, _):
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line.strip()


def _is_integer(cell: str) -> bool:
    try:
        return float(cell).is_integer()
    except ValueError:
        return False


def _id(key: str) -> str:
    if not key or key.split() != [key]:
        raise InputError(f"The id {key!r} cannot be written to a TREC file, whose columns are separated by spaces.")
    return key


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else "")
