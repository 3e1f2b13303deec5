"""The report: one file that loads nothing, escapes everything, and says what is missing."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from encodery.base.errors import InputError
from encodery.base.markup import el, text
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.report.charts import Series, chart, labels, smoothed, thinned, ticks
from encodery.evaluate.report.run_facts import read_run
from encodery.evaluate.report.summary import summary
from encodery.evaluate.report.write import write_report


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; unbalanced tags are an error."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(markup)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words += f" {data}"


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    written = write_report(run, tmp_path_factory.mktemp("out") / "page.html")
    return Page(written.page.read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    named = dict(page.attributes)
    assert not {"src", "onerror", "onload", "onclick", "style"} & set(named)
    assert all(value and value.startswith("#") for name, value in page.attributes if name == "href")
    assert "default-src 'none'" in str([v for n, v in page.attributes if n == "content"])


def test_hostile_text_arrives_as_text(page: Page) -> None:
    assert page.words.count("<script>alert('x')</script>") >= 3


def test_the_page_says_what_there_is(page: Page) -> None:
    for said in (
        "gets 20.0 % of the hidden tokens right",
        "30,000 parameters",
        "still falling",
        "Guessing by frequency",
    ):
        assert said in page.words
    for said in (
        "too short",
        "CC0-1.0",
        "1 document" if False else "10 documents named none" if False else "binary (1)",
    ):
        assert said in page.words
    assert "mountain" in page.words
    assert page.tags.count("svg") == 6
    assert "unknown" in page.words
    assert page.words.count("not recorded") <= 4


def test_samples_are_held_out_words_with_five_guesses(run: Path) -> None:
    from encodery.evaluate.report.draw_examples import draw_examples
    from encodery.model.load import load_model

    drawn = draw_examples(load_model(run), read_run(run))
    assert len(drawn.fills) == 8
    for fill in drawn.fills:
        assert re.fullmatch(r"[a-z<>]{4,}", fill.word.lower())
        assert len(fill.predictions) == 5
        chances = [chance for _, chance in fill.predictions]
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) <= 1
    assert len(drawn.passages) == 4
    assert all(-1.001 <= cosine <= 1.001 for near in drawn.passages for _, cosine in near.nearest)
    again = draw_examples(load_model(run), read_run(run))
    assert [f.word for f in again.fills] == [f.word for f in drawn.fills]


def test_figures_and_curves_lie_beside_it(run: Path, tmp_path: Path) -> None:
    written = write_report(run, tmp_path / "page.html", samples=False)
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "page.figures.json", "page.curves.csv"}
    figures = json.loads(written.metrics.read_text())
    assert figures["perplexity"] == pytest.approx(40)
    assert figures["cpu_hours"] == pytest.approx(10 * 2 / 3600)
    assert figures["energy"] is None
    assert figures["unigram_accuracy"] > 0.01
    rows = list(csv.DictReader(written.curves.read_text().splitlines()))
    assert len(rows) == 100
    assert float(rows[59]["heldout_loss"]) == pytest.approx(5)
    assert rows[0]["heldout_loss"] == ""


def test_a_bare_log_still_gives_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "log.jsonl", tmp_path / "log.jsonl")
    written = write_report(tmp_path)
    words = Page(written.page.read_text(encoding="utf-8")).words
    assert "holds no model" in words
    assert "licences of the training text were not recorded" in words
    assert written.page == tmp_path / "report.html"


def test_moved_and_changed_ancestors_are_named(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    shutil.copytree(run, home)
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["parents"]["tokens"]["fingerprint"] = "0" * 32
    (home / "manifest.json").write_text(json.dumps(manifest))
    assert [a.problem for a in read_run(home).lineage] == ["the folder now contains another artifact"]
    manifest["parents"]["tokens"]["path"] = str(tmp_path / "gone")
    (home / "manifest.json").write_text(json.dumps(manifest))
    assert [a.problem for a in read_run(home).lineage] == ["no longer at its path"]


def test_search_figures_are_shown_where_they_are(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "searched"
    shutil.copytree(run, home)
    found = {"queries": 30, "bm25": {"ndcg@10": 0.71, "mrr": 0.6}, "hybrid": {"ndcg@10": 0.76}}
    found |= {"hybrid minus bm25": {"ndcg@10": 0.05, "low": 0.01, "high": 0.09}}
    (home / "search.json").write_text(json.dumps(found))
    words = Page(write_report(home, samples=False).page.read_text(encoding="utf-8")).words
    assert "ndcg@10" in words
    assert "0.760" in words
    assert "ndcg@10 +0.050, 95 % interval +0.010 … +0.090: better" in words


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="neither log"):
        write_report(tmp_path)
    assert encodery(["report", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="name that ends in"):
        write_report(tmp_path, tmp_path / "report.pdf")


def test_the_verb_writes_and_names_its_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encodery(["report", str(run), "--no-samples", "--out", str(tmp_path / "r.html")]) == 0
    named = capsys.readouterr().out.split()
    assert [Path(name).name for name in named] == ["r.html", "r.figures.json", "r.curves.csv"]
    assert all(Path(name).is_file() for name in named)


def test_a_loss_that_rises_is_said_to_rise(run: Path, tmp_path: Path) -> None:
    lines = [{"step": s, "tokens": s, "loss": 3.0, "heldout_loss": 3 + s / 10, "mask_rate": 0.15} for s in range(1, 11)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = " ".join(summary(read_run(tmp_path)))
    assert "rose towards the end" in said
    assert "better on the text it was trained on" in said


def test_charts() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.42) == [0.2, 0.3, 0.4]
    assert labels([0, 0.0005, 0.001]) == ["0", "5e-4", "1e-3"]
    assert labels([0, 500_000, 1_000_000]) == ["0.0", "0.5 M", "1.0 M"]
    assert labels([6, 6.5]) == ["6.0", "6.5"]
    assert labels([0, 10_000, 20_000]) == ["0", "10 k", "20 k"]
    points = [(float(i), float(i % 2)) for i in range(5000)] + [(5000.0, float("nan"))]
    assert len(thinned(points)) <= 400
    assert all(0.4 < y < 0.6 for _, y in smoothed(points)[1000:])
    drawn = chart("A & B", [Series("a", points), Series("b", points[:9], "s2", dots=True)], "tokens")
    assert "A &amp; B" in drawn
    assert drawn.count("<circle") == 9
    assert "nan" not in drawn
    spike = chart("spike", [Series("a", [(float(i), 1.0 + 99 * (i == 50)) for i in range(200)])], "step", cut=True)
    assert "peaks cut" in spike
    assert "between 1 and 1.50" in spike
    assert "Not recorded" in chart("none", [Series("a", [])], "tokens")
    assert "<svg" in chart("flat", [Series("a", [(0, 1), (1, 1)])], "tokens")


def test_markup_escapes_by_construction() -> None:
    assert el("p", "<b>", el("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert text("a\x00\x1b\ud800b") == "a?b"
    assert html.unescape(text("<é>")) == "<é>"


def test_a_fine_tuned_run_learnt_from_its_rows_not_from_the_text_below(run: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"letter {n} of the captain", "label": "odd" if n % 2 else "even"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = ["finetune", "classify", tmp_path / "rows.jsonl", "--model", run, "--out", tmp_path / "tuned"]
    assert encodery([*map(str, command), "epochs=2", "test=0"]) == 0
    told = summary(read_run(tmp_path / "tuned"))[0]
    assert re.search(r"from 3\d rows \([12](\.\d+)? passes over the rows\)", told), told
    assert "document" not in told
    assert "document" in summary(read_run(run))[0]
