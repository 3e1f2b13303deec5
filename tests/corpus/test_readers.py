"""Each reader on small files: plain and compressed, complete and in slices."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from encodery.corpus.encoding import UnusableFile
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.sources import SourceFile, list_files
from encodery.corpus.steps.read import ReadContext, html, markdown, rst, text
from encodery.corpus.steps.read.csv import CsvReader
from encodery.corpus.steps.read.jsonl import JsonlReader
from encodery.corpus.steps.read.parquet import ParquetReader

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.compress(data[:100]) + zstandard.compress(data[100:]),
}
SETTINGS = CorpusSettings()
POLISH = (
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
    "sumieniem i powinni postępować wobec innych w duchu braterstwa. Każdy człowiek posiada wszystkie prawa i wolności "
    "bez względu na jakiekolwiek różnice rasy, koloru skóry, płci, języka, wyznania."
)


def source_of(path: Path) -> SourceFile:
    return list_files([path], SETTINGS.suffixes()).files[0]


def read(path: Path, column: str = "auto", encoding: str = "auto") -> tuple[list[tuple[str, Any]], list[str]]:
    source = source_of(path)
    context = ReadContext(column, encoding, None, path.parent, path.parent)
    skipped: list[str] = []
    rows = SETTINGS.read[source.format].read(source, lambda reason, detail: skipped.append(reason), context)
    return list(rows), skipped


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html", "a.jsonl", "a.csv", "a.tsv"])
def test_every_format_in_every_compression(tmp_path: Path, name: str, suffix: str) -> None:
    content = "A river runs through it, quietly, to the sea."
    contents = {
        ".html": f"<html><body><p>{content}</p></body></html>",
        ".jsonl": json.dumps({"text": content, "license": "MIT"}) + "\n",
        ".csv": f'id,text\n1,"{content}"\n',
        ".tsv": f"id\ttext\n1\t{content}\n",
    }.get(Path(name).suffix, content + "\n")
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix](contents.encode()))
    rows, skipped = read(path)
    assert [row[0].strip() for row in rows] == [content]
    assert not skipped


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("Der Fluß führt über die Brücke nach Köln, wo fünf Mädchen süße Äpfel äßen.", "latin-1"),
        ("“Quoted” text — with an ellipsis… and the price of 5 € for a naïve café.", "cp1252"),
        (POLISH, "iso-8859-2"),
        ("Все люди рождаются свободными и равными в своем достоинстве и правах. " * 3, "koi8-r"),
        ("すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。" * 3, "shift_jis"),
        ("Plain text with a mark, and a word: Straße.", "utf-16"),
        ("Plain text without a mark, of sixteen bits.", "utf-16-le"),
        ("Plain text without a mark, of sixteen bits.", "utf-16-be"),
        ("Marked UTF-8: élan.", "utf-8-sig"),
        ("Thirty-two bits: élan.", "utf-32"),
    ],
)
def test_encodings_are_detected(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode(encoding))
    assert read(path)[0][0][0] == content


def test_an_encoding_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Ελληνικά".encode("iso-8859-7"))
    assert read(path, encoding="iso-8859-7")[0][0][0] == "Ελληνικά"
    with pytest.raises(UnusableFile, match="no such encoding: nonsense"):
        read(path, encoding="nonsense")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(range(256)) * 40, "binary"),
        (b"%PDF-1.7\n" + b"stream of text " * 20, "binary"),
        (b"\x81\x8d\x8f\x90\x9d\xff\xfe\xe0abc" * 200, "undecodable"),
    ],
)
def test_binary_and_undecodable_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UnusableFile) as caught:
        read(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_damaged_archives_are_reported_and_rows_before_the_damage_kept(tmp_path: Path, suffix: str) -> None:
    rows = "".join(json.dumps({"text": f"row {i} {hash(str(i))}"}) + "\n" for i in range(20_000))
    path = tmp_path / f"a.jsonl{suffix}"
    data = COMPRESS[suffix](rows.encode()) if suffix != ".zst" else zstandard.compress(rows.encode())
    path.write_bytes(data[: len(data) // 2])
    texts_read = []
    context = ReadContext("auto", "auto", None, tmp_path, tmp_path)
    with pytest.raises(UnusableFile) as caught:
        for row in JsonlReader().read(source_of(path), lambda *_: None, context):
            texts_read.append(row[0])
    assert caught.value.reason == "corrupt"
    assert texts_read[:3] == [f"row {i} {hash(str(i))}" for i in range(3)]
    assert 100 < len(texts_read) < 20_000


def test_a_file_that_is_not_an_archive_is_corrupt(tmp_path: Path) -> None:
    for suffix in (".gz", ".xz", ".zst", ".bz2"):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(b"this is plain text, not an archive")
        with pytest.raises(UnusableFile) as caught:
            read(path)
        assert caught.value.reason == "corrupt"


def test_broken_rows_are_counted_and_the_rest_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b'{"text": broken', b"[1, 2]", b"", b'{"text": ""}', b'{"other": "x"}']
    lines.append('{"text": "naïve"}'.encode("latin-1"))
    path.write_bytes(b"\n".join(lines))
    rows, skipped = read(path)
    assert [row[0] for row in rows] == ["good", "naïve"]
    assert sorted(skipped) == ["broken row"] * 2 + ["row without text"] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_slices_cover_a_file_without_loss_or_overlap(tmp_path: Path, name: str) -> None:
    texts = [f"document number {i} " + "x" * (i % 37) for i in range(1000)]
    path = tmp_path / name
    if name == "a.parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=50)
    elif name == "a.csv":
        path.write_text("text\n" + "\n".join(texts))
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    source = source_of(path)
    context = ReadContext("auto", "auto", None, tmp_path, tmp_path)
    reader = SETTINGS.read[source.format]
    texts_read = [
        [row[0] for row in reader.read(replace(source, slice_index=part, num_slices=7), lambda *_: None, context)]
        for part in range(7)
    ]
    assert all(texts_read)
    assert sorted(itertools.chain.from_iterable(texts_read)) == sorted(texts)


def test_the_text_column_is_guessed_or_set(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,title,notes\n1,Short,This is the longest column by far\n2,Brief,And here it is again\n")
    rows, _ = read(path)
    assert rows[0] == ("This is the longest column by far", {"id": "1", "title": "Short"})
    assert read(path, column="title")[0][1][0] == "Brief"
    with pytest.raises(UnusableFile, match="Did you mean 'notes'") as caught:
        read(path, column="note")
    assert caught.value.reason == "no_text_column"


def test_metadata_of_rows_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"text": "body", "license": "MIT", "n": 3, "long": "x" * 900, "list": [1], "metadata": {"inner": "y"}}
    path.write_text(json.dumps(row))
    assert read(path)[0] == [("body", {"inner": "y", "license": "MIT", "n": 3})]


def test_csv_delimiters_quotes_and_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id;text\n1;"first; with\nnewline"\n2\n3;third\n')
    rows, skipped = read(path)
    assert [row[0] for row in rows] == ["first; with\nnewline", "third"]
    assert skipped == ["broken row"]
    assert CsvReader(delimiter="tab")._delimiter(source_of(path), "a,b") == "\t"


def test_parquet_rows_and_damage(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"body": ["one", None, "three"], "license": ["MIT"] * 3}), path)
    rows, skipped = read(path)
    assert rows == [("one", {"license": "MIT"}), ("three", {"license": "MIT"})]
    assert skipped == ["row without text"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnusableFile) as caught:
        list(
            ParquetReader().read(
                source_of(path), lambda *_: None, ReadContext("auto", "auto", None, tmp_path, tmp_path)
            )
        )
    assert caught.value.reason == "corrupt"


def test_a_large_text_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK", 1000)
    path = tmp_path / "a.txt"
    content = "\n\n".join(f"Paragraph {i} " + "word " * 40 for i in range(50)) + "\n" + "y" * 5000
    path.write_text(content)
    rows, _ = read(path)
    assert len(rows) > 10
    assert max(len(row[0]) for row in rows) <= 2000
    assert "".join(row[0] for row in rows) == content


def test_html_keeps_text_only() -> None:
    page = """<?xml version="1.0" encoding="utf-8"?><html><head><title> A  page </title><style>p{}</style></head><body>
    <!-- comment --><nav><a href=x>menu</a></nav><h1>Heading</h1><p>Some &amp; <b>bold</b>
    text<br>next.</p><script>var x = 1</script><ul><li>one<li>two</ul>
    <ul><li><a href=a>This is a long menu of links</a><li><a href=b>and another one of them</a></ul>
    <table><tr><td>a</td><td>b</td></tr></table><pre>def f():
    return 1</pre><footer>imprint</footer></body></html>"""
    title, plain = html.plain(page)
    assert title == "A page"
    assert [line for line in plain.split("\n") if line] == [
        "Heading", "Some & bold text", "next.", "one", "two", "a\tb", "def f():", "    return 1",
    ]  # fmt: skip
    assert "long menu" in html.plain(page, max_link_fraction=1)[1]


def test_html_removes_the_navigation_of_manuals() -> None:
    page = """<body><div role="navigation" class="x">next previous</div><div class="navheader other">Up Home</div>
    <h1>Joining<a class="headerlink" href="#j">¶</a> tables</h1><p>Text with a <em>word</em>.</p></body>"""
    text = html.plain(page)[1]
    assert text.split() == ["Joining", "tables", "Text", "with", "a", "word."]


@pytest.mark.parametrize("page", ["", "   ", "<!-- -->", "<", "no tags at all", "<p>unclosed <b>tags <i>here"])
def test_html_accepts_any_input(page: str) -> None:
    assert isinstance(html.plain(page)[1], str)


def test_markdown_markup_is_removed() -> None:
    content = (
        "---\ntitle: x\n---\n# Head\n\nSee [the page](http://a.b/c) and [ref][1]. ![image](i.png)\n<br/>\n"
        "<!-- hidden\n -->\n[1]: http://x\n\n```py\nx = [1](2)\n```\nUnder\n=====\n"
    )
    assert [line for line in markdown.plain(content).split("\n") if line.strip()] == [
        "# Head", "See the page and ref. ", "```py", "x = [1](2)", "```", "Under",
    ]  # fmt: skip


def test_rst_markup_is_removed() -> None:
    content = (
        "=====\nTitle\n=====\n\n.. _target:\n.. comment here\n\nSee :ref:`the thing <t>`, :class:`~a.B`, ``code`` and "
        "`link <http://x>`_::\n\n    block\n\n.. image:: x.png\n   :alt: y\n\n.. note:: Careful.\n"
    )
    assert [line for line in rst.plain(content).split("\n") if line.strip()] == [
        "Title", "See the thing, a.B, code and link:", "    block", "Careful.",
    ]  # fmt: skip
