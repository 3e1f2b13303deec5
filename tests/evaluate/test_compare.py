"""Systems side by side: one table, from library and command line, in every form it is written in."""

from __future__ import annotations

import csv
import io
import json
import urllib.error
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError, SettingsError
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.compare import SuiteTask, compare
from encodery.evaluate.memory import PeakMemory
from encodery.evaluate.plan import read_plan
from encodery.evaluate.suites.sts import STSSuite
from encodery.evaluate.systems.bm25 import BM25System
from encodery.evaluate.systems.endpoint import EndpointSystem
from encodery.evaluate.systems.model import ModelSystem
from encodery.evaluate.systems.tfidf import TFIDFSystem
from encodery.evaluate.tables import as_csv, as_json, html_page, write

HOSTILE = "<script>alert(1)</script> & 'x'"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter"]
    rows = [{"a": f"the {a} here", "b": f"the {b} there", "score": float(a == b)} for a in words for b in words]
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_one_table_of_quality_and_cost(run: Path, pairs: Path) -> None:
    messages: list[str] = []
    systems = [TFIDFSystem(max_ngram=1), ModelSystem(path=str(run), name=HOSTILE), BM25System()]
    comparison = compare(systems, [SuiteTask(suite=STSSuite(), data=pairs)], log=messages.append)
    first, model, bm25 = comparison.rows
    assert first.result is not None
    assert first.result.value > 0.3
    assert first.difference is None
    assert model.result is not None
    assert model.difference is not None
    assert model.difference.value == pytest.approx(model.result.value - first.result.value)
    assert model.result.counters.padding == 0
    assert model.result.memory is None or model.result.memory > 0
    assert bm25.result is None
    assert "cannot compare two texts" in bm25.reason
    assert messages == [f"{s.label}: sts pairs, 64 items" for s in systems]

    table = json.loads(as_json(comparison))
    assert table["machine"]["threads"] >= 1
    assert table["rows"][1]["p"] == model.difference.p
    assert table["rows"][1]["tokens_per_s"] > 0
    lines = list(csv.DictReader(as_csv(comparison).splitlines()))
    assert [line["system"] for line in lines] == ["TF-IDF", HOSTILE, "BM25"]
    assert float(lines[0]["value"]) == first.result.value


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {"src", "href", "onclick"} & {name for name, _ in attrs}


def test_the_page_loads_nothing_and_escapes_names(run: Path, pairs: Path, tmp_path: Path) -> None:
    comparison = compare(
        [ModelSystem(path=str(run), name=HOSTILE), TFIDFSystem(), BM25System()],
        [SuiteTask(suite=STSSuite(), data=pairs, name="x<y")],
    )
    page = html_page(comparison)
    tags = _Tags()
    tags.feed(page)
    assert {"table", "h2", "details"} <= tags.seen
    assert "script" not in tags.seen
    assert "x&lt;y" in page
    for ending in (".html", ".json", ".csv", ".md"):
        write(comparison, tmp_path / "deep" / f"table{ending}")
    assert (tmp_path / "deep" / "table.html").read_text() == page
    with pytest.raises(InputError, match=r"not '\.xlsx'"):
        write(comparison, tmp_path / "table.xlsx")


def test_every_figure_of_retrieval_has_its_interval_and_its_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter"]
    (tmp_path / "qrels").mkdir()
    for name, text in (("corpus", "the {0} and the {1}"), ("queries", "{0} {0} {1}")):
        rows = [{"_id": f"{name}{n}", "text": text.format(words[n], words[n - 3])} for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = "".join(f"queries{n}\tcorpus{n}\t1\n" for n in range(8))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
    out = [tmp_path / f"table.{ending}" for ending in ("csv", "html", "md")]
    models = ["--model", "tfidf,name=a | b", "--model", "bm25"]
    assert encodery(["evaluate", "retrieval", str(tmp_path), *models, *(f"--out={path}" for path in out)]) == 0
    shown = capsys.readouterr().out
    names = ["ndcg@10", "mrr@10", "recall@100", "map@100"]
    assert all(name in shown for name in names)
    first, second = csv.DictReader(out[0].read_text().splitlines())
    for name in names:
        assert float(first[f"{name}_low"]) <= float(first[name]) <= float(first[f"{name}_high"])
        assert float(second[f"{name}_difference"]) == pytest.approx(float(second[name]) - float(first[name]))
        assert 0 < float(second[f"{name}_p"]) <= 1
        assert f"<td>{name}</td><td>BM25</td>" in out[1].read_text()
        assert f"| {name} | a \\| b |" in out[2].read_text()
    assert float(first["value"]) == float(first["ndcg@10"])


def test_invalid_plans_are_refused(run: Path, pairs: Path) -> None:
    with pytest.raises(InputError, match="cannot compare two texts"):
        compare([BM25System()], [SuiteTask(suite=STSSuite(), data=pairs)])
    with pytest.raises(InputError, match="Two systems have the name 'TF-IDF'"):
        compare([TFIDFSystem(), TFIDFSystem(max_ngram=1)], [SuiteTask(suite=STSSuite(), data=pairs)])
    with pytest.raises(InputError, match="No systems"):
        compare([], [SuiteTask(suite=STSSuite(), data=pairs)])


def test_a_plan_holds_several_of_both(
    run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        f'[[systems]]\nis = "tfidf"\n[[systems]]\nis = "model"\npath = "{run}"\n'
        f'[[tasks]]\nsuite = "sts"\ndata = "{pairs}"\n'
        f'[[tasks]]\nname = "pairs"\ndata = "{pairs.parent}/same.jsonl"\n'
        'suite = { is = "pair", columns.label = "label" }\n'
    )
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    (pairs.parent / "same.jsonl").write_text("".join(json.dumps({**r, "label": int(r["score"])}) + "\n" for r in rows))
    assert [task.label for task in read_plan(file).tasks] == ["sts pairs", "pairs"]
    out = tmp_path / "table.json"
    assert encodery(["evaluate", "plan", str(file), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "sts pairs" in shown
    assert "spearman" in shown
    assert "tokens/s" in shown
    assert len(json.loads(out.read_text())["rows"]) == 4
    file.write_text('[[systems]]\nis = "tfdf"\n')
    assert encodery(["evaluate", "plan", str(file)]) == 2
    assert "Did you mean 'tfidf'" in capsys.readouterr().err


def test_the_command_of_a_suite(run: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "sts", str(pairs), "--model", str(run), "--model", "tfidf,max_ngram=1"]
    assert encodery([*arguments, "--out", str(tmp_path / "a.html"), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in table["rows"]] == ["first run", "TF-IDF"]
    assert (tmp_path / "a.html").is_file()
    assert encodery(["evaluate", "sts", str(pairs), "colums.score=x", "--model", "tfidf"]) == 2
    assert "Did you mean 'columns'" in capsys.readouterr().err
    assert encodery(["evaluate", "sts", str(pairs)]) == 2
    assert "Missing option '--model'" in capsys.readouterr().err
    assert encodery([*arguments, "--out", "table.docx"]) == 2
    assert "not '.docx'" in capsys.readouterr().err


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the server says next: bytes, or an exception."""
    waiting: list[Any] = []

    class Answer:
        def __init__(self, body: bytes) -> None:
            self.body = body

        def read(self) -> bytes:
            return self.body

        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def urlopen(request: Any, timeout: float) -> Answer:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    yield waiting
    assert not waiting


def test_invalid_answers_of_a_server_are_named(answers: list[Any]) -> None:
    opened = EndpointSystem(url="http://localhost:1/embed", batch=2).open()
    answers += [b"[[1.0, 2.0], [3.0, 4.0]]", b"[[5.0, 6.0]]"]
    assert opened.encode(["a", "b", "c"]).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert opened.counters.tokens is None
    for body, match in (
        (b"not json", "is not JSON"),
        (b"[[1.0, 2.0]]", "returned 1 vectors for 2 texts"),
        (b'{"error": "busy"}', "must be a list of vectors"),
        (b"[[1.0, 2.0], [3.0]]", "must be vectors of one dimension"),
        (urllib.error.URLError("refused"), "no answer: refused"),
        (urllib.error.HTTPError("u", 413, "Too Large", Message(), io.BytesIO(b"less")), "answered 413 Too Large: less"),
    ):
        answers.append(body)
        with pytest.raises(InputError, match=match):
            opened.encode(["a", "b"])
    answers.append(b'{"object": "list"}')
    with pytest.raises(InputError, match="must have the form of OpenAI's"):
        EndpointSystem(url="http://localhost:1/v1/embeddings").open().encode(["a"])
    with pytest.raises(SettingsError, match="must start with http"):
        EndpointSystem(url="localhost:1")


def test_memory_is_the_peak_since_the_mark() -> None:
    peak = PeakMemory()
    if peak.since_start() is None:
        pytest.skip("this kernel keeps no mark that can be reset")
    held = np.ones(30_000_000)
    assert held.sum() > 0
    assert 200e6 < (peak.since_start() or 0) < 400e6
    del held
    peak.mark()
    assert (peak.since_start() or 0) < 100e6
