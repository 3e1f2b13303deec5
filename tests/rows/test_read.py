"""Every format returns the rows that were written, and names file and line of what cannot be read."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest

from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.rows.read import read_tables

ROWS = [
    {"text": 'He message "no", twice', "label": "neg"},
    {"text": "две\nстроки, שלום 👩‍👩‍👧", "label": "pos"},
    {"text": "", "label": "pos"},
    {"text": "e\u0301 tail\\", "label": "neg"},
]


def lines_of(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(path: Path, delimiter: str, encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_csv(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / ("rows.tsv" if delimiter == "\t" else "rows.csv")
    as_csv(path, delimiter, encoding)
    table = read_tables(path)["train"]
    assert list(table) == ROWS
    assert bool(table.warnings) == encoding.startswith("utf-16")


def test_windows_1252_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text,label\ncafé – “yes”,a\n".encode("cp1252"))
    table = read_tables(path)["train"]
    assert table.row(0) == {"text": "café – “yes”", "label": "a"}
    assert table.warnings == (f"{path}: read as Windows-1252",)


@pytest.mark.parametrize("data", [b"text,label\n\x81\xff,a\n", b"\x00\x01\x00\x00 x"])
def test_binary_data_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.csv: (is not text|contains NUL)"):
        read_tables(path)


def test_quotes_of_unquoted_tsv_are_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"Oh\tneg\nfive" wide\tpos\n"whole"\tpos\n', encoding="utf-8")
    assert list(read_tables(path)["train"]["text"]) == ['"Oh', 'five" wide', '"whole"']


def test_a_long_cell_is_read_and_the_limit_restored(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{'x' * 300_000},a\n", encoding="utf-8")
    before = csv.field_size_limit()
    assert len(read_tables(path)["train"]["text"][0]) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("text,label\na,b\nc\n", "line 3: has 1 cells"),
        ("text,text\na,b\n", "line 1: the header names a column twice: text"),
        ('text,label\n"a,b\n', "quotes are not balanced"),
    ],
)
def test_broken_csv_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_tables(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.conll"])
def test_empty_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(EmptyInput):
        read_tables(tmp_path / name)


def test_jsonl_with_every_compression(tmp_path: Path) -> None:
    import zstandard

    data = lines_of(ROWS).encode()
    compressed = {"a.jsonl": data, "a.jsonl.gz": gzip.compress(data), "a.jsonl.xz": lzma.compress(data)}
    compressed["a.jsonl.zst"] = b"".join(zstandard.ZstdCompressor().compress(half) for half in (data[:40], data[40:]))
    compressed["a.json"] = json.dumps(ROWS, indent=1).encode()
    for name, content in compressed.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_tables(tmp_path / name)["train"]) == ROWS, name
    for name in ("a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(compressed[name][:-12])
        with pytest.raises(InputError, match=r"damaged|not valid JSON"):
            read_tables(tmp_path / name)


@pytest.mark.parametrize(
    "text, message", [('{"a": 1}\n{"a": \n', "line 2: is not valid JSON"), ("\n3\n", "line 2: an object")]
)
def test_broken_json_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_tables(tmp_path / "a.jsonl")


def test_conll(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text(
        "-DOCSTART- -X- O\n\n# id = 7\nEU NNP B-ORG\nיש NN O\r\n\n\n#tag NN O\n", encoding="utf-8", newline=""
    )
    table = read_tables(path)["train"]
    assert list(table) == [
        {"tokens": ["EU", "יש"], "tags": ["B-ORG", "O"], "column2": ["NNP", "NN"]},
        {"tokens": ["#tag"], "tags": ["O"], "column2": ["NN"]},
    ]
    assert table.location(0).endswith("line 4")
    path.write_text("EU B-ORG\nrejects\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: has 1 cells"):
        read_tables(path)


def test_one_text_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one, two\r\n\n שלום\n".encode())
    table = read_tables(tmp_path / "a.txt")["train"]
    assert list(table["text"]) == ["one, two", "שלום"]
    assert table.location(1).endswith("line 3")


def test_the_layout_of_squad(tmp_path: Path) -> None:
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "She", "answer_start": 0}]},
        {"id": "2", "question": "Where?", "answers": [], "is_impossible": True},
    ]
    file = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "She came.", "qas": questions}]}]}
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    table = read_tables(path)["dev"]
    assert list(table["answers"]) == [[{"text": "She", "answer_start": 0}], []]
    assert list(table["context"]) == ["She came."] * 2
    del questions[1]["question"]
    path.write_text(json.dumps(file), encoding="utf-8")
    with pytest.raises(InputError, match="question 2: does not have the layout of SQuAD"):
        read_tables(path)


def test_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"tokens": ["a", "b"], "score": 0.5}, {"tokens": [], "score": None}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    table = read_tables(tmp_path / "test.parquet")["test"]
    assert list(table) == rows
    assert table.location(1).endswith("row 2")
    (tmp_path / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_tables(tmp_path / "test.parquet")


def test_folders_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    columns = {"text": ["a", "b", "c"], "label": [0, 1, -1], "tags": [[0, 1], [], [1]]}
    one = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": one, "validation": one.select([1])}).save_to_disk(str(tmp_path / "both"))
    tables = read_tables(tmp_path / "both")
    assert list(tables) == ["train", "dev"]
    assert list(tables["train"]["label"]) == ["neg", "pos", None]
    assert list(tables["train"]["tags"]) == [["O", "B-X"], [], ["B-X"]]
    assert list(tables["dev"]["text"]) == ["b"]
    one.save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert list(read_tables(tmp_path / "one")["train"]["text"]) == ["a", "b", "c"]
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(ArtifactError, match="but missing"):
        read_tables(tmp_path / "one")
    one.to_parquet(str(tmp_path / "rows.parquet"))
    assert list(read_tables(tmp_path / "rows.parquet")["train"]["label"]) == ["neg", "pos", None]


def test_folders_of_files_by_split(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (shards / "data").mkdir(parents=True)
    for name, row in {"train-00000-of-2": ROWS[0], "train-00001-of-2": ROWS[1], "valid": ROWS[2]}.items():
        (shards / "data" / f"{name}.jsonl").write_text(lines_of([row]), encoding="utf-8")
    tables = read_tables(shards)
    assert {name: list(table) for name, table in tables.items()} == {"train": ROWS[:2], "dev": ROWS[2:3]}
    assert tables["train"].location(1).endswith("train-00001-of-2.jsonl, line 1")
    (shards / "data" / "train.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"as \.csv and as \.jsonl"):
        read_tables(shards)
    nested = tmp_path / "nested"
    (nested / "test").mkdir(parents=True)
    (nested / "test" / "part.jsonl").write_text(lines_of(ROWS), encoding="utf-8")
    assert list(read_tables(nested)) == ["test"]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="contains no file named train"):
        read_tables(tmp_path / "none")


def test_a_column_splits_the_rows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a", "split": "train"}, {"text": "b", "split": "Validation"}, {"text": "c", "split": "train"}]
    path.write_text(lines_of(rows), encoding="utf-8")
    tables = read_tables(path)
    assert {name: list(table) for name, table in tables.items()} == {
        "train": [{"text": "a"}, {"text": "c"}],
        "dev": [{"text": "b"}],
    }
    rows[1]["split"] = "bananas"
    path.write_text(lines_of(rows), encoding="utf-8")
    assert list(read_tables(path)["train"]["split"]) == ["train", "bananas", "train"]


def test_missing_files_and_unknown_formats(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"Did you mean 'rows\.csv'"):
        read_tables(tmp_path / "row.csv")
    (tmp_path / "rows.doc").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="format is not known"):
        read_tables(tmp_path / "rows.doc")


def test_a_hundred_thousand_rows_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(100_000):
            file.write(json.dumps({"text": f"row {number} " + "x" * 60, "label": number % 7}) + "\n")
    tracemalloc.start()
    try:
        table = read_tables(path)["train"]
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert len(table) == 100_000
    assert table["label"][99_999] == 99_999 % 7
    assert current < 1.3 * size + (1 << 20)
    assert peak < 3 * size
