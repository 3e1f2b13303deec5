"""The report is one file that loads nothing from the network, escapes every text and states what is missing."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from encodery.base.errors import ArtifactError, InputError
from encodery.base.markup import el, text
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.report.charts import Series, chart, downsample, smooth, tick_labels, ticks
from encodery.evaluate.report.data_set_statistics import counts_table, data_set_statistics
from encodery.evaluate.report.draw_examples import FillExample, ModelExamples, NeighbourExample
from encodery.evaluate.report.examples import masked_words, nearest_neighbours
from encodery.evaluate.report.machine import machine
from encodery.evaluate.report.metric_table import metric_table
from encodery.evaluate.report.number_format import duration, number, percentage, plural, size
from encodery.evaluate.report.page import page as page_of
from encodery.evaluate.report.predictions import prediction_sections, prediction_tiles
from encodery.evaluate.report.provenance import licences, provenance
from encodery.evaluate.report.recipe import recipe
from encodery.evaluate.report.run_facts import RunFacts, read_run
from encodery.evaluate.report.run_metrics import run_metrics
from encodery.evaluate.report.search_metrics import search_metrics
from encodery.evaluate.report.summary import summary
from encodery.evaluate.report.tiles import pretraining_tiles, tiles
from encodery.evaluate.report.tokenizer_statistics import tokenizer_statistics
from encodery.evaluate.report.training_curves import curves_csv, training_curves
from encodery.evaluate.report.write import write_report
from encodery.tokens.unigram_baseline import UnigramBaseline


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; unbalanced tags are an error."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
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
            self.text += f" {data}"


def facts(folder: Path, **fields: Any) -> RunFacts:
    """A run without artifacts, with the fields that a test needs."""
    defaults: dict[str, Any] = {"artifact": None, "recipe": {}, "steps": [], "evaluations": [], "metrics": {}}
    return RunFacts(folder, **(defaults | fields))


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    files = write_report(run, tmp_path_factory.mktemp("out") / "page.html")
    return Page(files.page.read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not {"script", "img", "link", "iframe", "object"} & set(page.tags)
    named = dict(page.attributes)
    assert not {"src", "onerror", "onload", "onclick", "style"} & set(named)
    assert all(value and value.startswith("#") for name, value in page.attributes if name == "href")
    assert "default-src 'none'" in str([v for n, v in page.attributes if n == "content"])


def test_hostile_text_is_escaped(page: Page) -> None:
    assert page.text.count("<script>alert('x')</script>") >= 3


def test_the_page_shows_what_is_recorded(page: Page) -> None:
    for sentence in (
        "it predicts 20.0 % of the masked tokens correctly, its perplexity is 40",
        "An encoder with 30,000 parameters",
        "The held-out loss was still falling at the end",
        "The unigram baseline predicts",
    ):
        assert sentence in page.text
    for statistic in ("too short", "CC0-1.0", "440 documents", "3 files, 50.0 kB", "binary (1)"):
        assert statistic in page.text
    assert "mountain" in page.text
    assert page.tags.count("svg") == 6
    assert "unknown" in page.text
    assert page.text.count("not recorded") <= 4


def test_each_section_is_linked_from_the_navigation(run: Path, tmp_path: Path) -> None:
    markup = write_report(run, tmp_path / "page.html", samples=False).page.read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", markup)
    assert headings == [
        "Metrics",
        "Training curves",
        "Example predictions",
        "Nearest neighbours",
        "Search metrics",
        "Data set statistics",
        "Tokenizer",
        "Recipe",
        "Machine",
        "Provenance",
        "Licences",
    ]
    assert re.findall('<a href="#(.*?)">', markup) == re.findall('<section id="(.*?)">', markup)
    assert markup.count("Examples were switched off.") == 2


def test_examples_are_held_out_words_with_five_predictions(run: Path) -> None:
    from encodery.evaluate.report.draw_examples import draw_examples
    from encodery.model.load import load_model

    examples = draw_examples(load_model(run), read_run(run))
    assert len(examples.fills) == 8
    for fill in examples.fills:
        assert re.fullmatch(r"[a-z<>]{4,}", fill.word.lower())
        assert len(fill.predictions) == 5
        probabilities = [probability for _, probability in fill.predictions]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1
    assert len(examples.passages) == 4
    assert all(-1.001 <= cosine <= 1.001 for example in examples.passages for _, cosine in example.nearest)
    again = draw_examples(load_model(run), read_run(run))
    assert [f.word for f in again.fills] == [f.word for f in examples.fills]


def test_metrics_and_curves_are_written_next_to_the_page(run: Path, tmp_path: Path) -> None:
    files = write_report(run, tmp_path / "page.html", samples=False)
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "page.metrics.json", "page.curves.csv"}
    metrics = json.loads(files.metrics.read_text())
    assert metrics["perplexity"] == pytest.approx(40)
    assert metrics["cpu_hours"] == pytest.approx(10 * 2 / 3600)
    assert metrics["energy"] is None
    assert metrics["unigram_accuracy"] > 0.01
    rows = list(csv.DictReader(files.curves.read_text().splitlines()))
    assert len(rows) == 100
    assert float(rows[59]["heldout_loss"]) == pytest.approx(5)
    assert rows[0]["heldout_loss"] == ""


def test_a_log_alone_is_enough_for_a_page(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "log.jsonl", tmp_path / "log.jsonl")
    files = write_report(tmp_path)
    content = Page(files.page.read_text(encoding="utf-8")).text
    assert "holds no model" in content
    assert "licences of the training text were not recorded" in content
    assert files.page == tmp_path / "report.html"


def test_ancestors_that_moved_or_changed_are_named(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    shutil.copytree(run, home)
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["parents"]["tokens"]["fingerprint"] = "0" * 32
    (home / "manifest.json").write_text(json.dumps(manifest))
    assert [a.problem for a in read_run(home).lineage] == ["the folder now contains another artifact"]
    manifest["parents"]["tokens"]["path"] = str(tmp_path / "gone")
    (home / "manifest.json").write_text(json.dumps(manifest))
    assert [a.problem for a in read_run(home).lineage] == ["no longer at its path"]


def test_search_metrics_are_shown(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "with search"
    shutil.copytree(run, home)
    metrics = {"queries": 30, "bm25": {"ndcg@10": 0.71, "mrr": 0.6}, "hybrid": {"ndcg@10": 0.76}}
    metrics |= {"hybrid minus bm25": {"ndcg@10": 0.05, "low": 0.01, "high": 0.09}}
    (home / "search.json").write_text(json.dumps(metrics))
    content = Page(write_report(home, samples=False).page.read_text(encoding="utf-8")).text
    assert "ndcg@10" in content
    assert "0.760" in content
    assert "ndcg@10 +0.050, 95 % interval +0.010 … +0.090: better" in content


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="neither log"):
        write_report(tmp_path)
    assert encodery(["report", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="name that ends in"):
        write_report(tmp_path, tmp_path / "report.pdf")


def test_the_command_writes_and_prints_its_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encodery(["report", str(run), "--no-samples", "--out", str(tmp_path / "r.html")]) == 0
    paths = capsys.readouterr().out.split()
    assert [Path(path).name for path in paths] == ["r.html", "r.metrics.json", "r.curves.csv"]
    assert all(Path(path).is_file() for path in paths)


def test_a_rising_held_out_loss_is_reported(run: Path, tmp_path: Path) -> None:
    lines = [{"step": s, "tokens": s, "loss": 3.0, "heldout_loss": 3 + s / 10, "mask_rate": 0.15} for s in range(1, 11)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sentences = " ".join(summary(read_run(tmp_path)))
    assert "The held-out loss rose towards the end" in sentences
    assert "(overfitting)" in sentences


def test_another_loss_is_not_compared_with_tokens(tmp_path: Path) -> None:
    """A loss that is no cross entropy of tokens has no perplexity, and the unigram baseline says nothing about it."""
    evaluations = [{"step": 3, "tokens": 9, "heldout_loss": 5.0, "heldout_accuracy": 0.25, "recall": 0.5}]
    recipe = {"settings": {"objective": {"is": "replaced_tokens"}}}
    run = facts(tmp_path, evaluations=evaluations, recipe=recipe)
    run.__dict__["unigram"] = UnigramBaseline(loss=5.2, accuracy=0.05)
    sentences = " ".join(summary(run))
    expected = (
        "On held-out text the loss of its objective 'replaced_tokens' is 5 and its accuracy 25.0 % (recall 0.500)."
    )
    assert expected in sentences
    assert "perplexity" not in sentences
    assert "baseline" not in sentences
    metrics = run_metrics(run)
    assert metrics["perplexity"] is None
    assert metrics["unigram_loss"] is None
    content = Page(metric_table(metrics)).text + Page(pretraining_tiles(metrics)).text
    assert "Held-out recall 0.500" in " ".join(content.split())
    assert "accuracy of the objective, held-out" in content
    assert not any(word in content.lower() for word in ("masked", "perplexity", "bits per byte", "unigram"))
    assert "masked" not in Page(training_curves(run)).text


def test_a_plateau_and_small_gains_over_the_baseline_are_reported(tmp_path: Path) -> None:
    evaluations = [{"tokens": n, "heldout_loss": 5.0 - n / 1000, "bits_per_byte": 2.0} for n in range(1, 11)]
    run = facts(tmp_path, evaluations=evaluations, metrics={"tokens_per_s": 9000})
    run.__dict__["unigram"] = UnigramBaseline(loss=5.2, accuracy=0.05)
    sentences = " ".join(summary(run))
    assert "The held-out loss had stopped falling by the end." in sentences
    assert "The unigram baseline predicts 5.0 % correctly, with a perplexity of 181." in sentences
    assert "The model is hardly better than this baseline" in sentences
    assert sentences.endswith("The training speed was 9,000 tokens per second.")


def test_charts() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.42) == [0.2, 0.3, 0.4]
    assert tick_labels([0, 0.0005, 0.001]) == ["0", "5e-4", "1e-3"]
    assert tick_labels([0, 500_000, 1_000_000]) == ["0.0", "0.5 M", "1.0 M"]
    assert tick_labels([6, 6.5]) == ["6.0", "6.5"]
    assert tick_labels([0, 10_000, 20_000]) == ["0", "10 k", "20 k"]
    points = [(float(i), float(i % 2)) for i in range(5000)] + [(5000.0, float("nan"))]
    assert len(downsample(points)) <= 400
    assert all(0.4 < y < 0.6 for _, y in smooth(points)[1000:])
    two_lines = chart("A & B", [Series("a", points), Series("b", points[:9], "s2", dots=True)], "tokens")
    assert "A &amp; B" in two_lines
    assert two_lines.count("<circle") == 9
    assert "nan" not in two_lines
    spike = chart(
        "spike", [Series("a", [(float(i), 1.0 + 99 * (i == 50)) for i in range(200)])], "step", clip_peaks=True
    )
    assert "peaks clipped" in spike
    assert "between 1 and 1.50" in spike
    assert "Not recorded" in chart("none", [Series("a", [])], "tokens")
    assert "<svg" in chart("flat", [Series("a", [(0, 1), (1, 1)])], "tokens")


def test_markup_escapes_by_construction() -> None:
    assert el("p", "<b>", el("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert text("a\x00\x1b\ud800b") == "a?b"
    assert html.unescape(text("<é>")) == "<é>"


def test_the_summary_of_a_fine_tuned_run_names_its_rows_and_not_the_text_of_its_ancestors(
    run: Path, tmp_path: Path
) -> None:
    rows = [json.dumps({"text": f"letter {n} of the captain", "label": "odd" if n % 2 else "even"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = ["finetune", "classify", tmp_path / "rows.jsonl", "--model", run, "--out", tmp_path / "tuned"]
    assert encodery([*map(str, command), "epochs=2", "test=0"]) == 0
    sentence = summary(read_run(tmp_path / "tuned"))[0]
    assert re.search(r"from 3\d rows \((1 epoch|[12](\.\d+)? epochs)\)", sentence), sentence
    assert "document" not in sentence
    assert "document" in summary(read_run(run))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(None), "not recorded"),
        (number(float("nan")), "not a number"),
        (number(float("inf")), "infinite"),
        (number(1234), "1,234"),
        (number(12_345_678), "12.3 M"),
        (number(0.0123), "0.0123"),
        (number(3.4e-5), "3.40e-05"),
        (size(None), "not recorded"),
        (size(512), "512 B"),
        (size(3400), "3.4 kB"),
        (size(12_300_000), "12.3 MB"),
        (duration(None), "not recorded"),
        (duration(8.1), "8.1 s"),
        (duration(312), "5 min 12 s"),
        (duration(11_040), "3 h 4 min"),
        (percentage(None), "not recorded"),
        (percentage(0.125), "12.5 %"),
        (plural(None, "row"), "not recorded"),
        (plural(1, "row"), "1 row"),
        (plural(8123, "row"), "8,123 rows"),
    ],
)
def test_number_formats(text: str, expected: str) -> None:
    assert text == expected


def test_the_skeleton_of_a_page_uses_the_title_as_default_heading() -> None:
    assert "<h1>A &amp; B</h1>" in page_of("A & B", el("p", "x"))
    assert "<title>A &amp; B</title>" in page_of("A & B", heading="C")
    assert "<h1>C</h1>" in page_of("A & B", heading="C")


def test_metrics_count_the_hours_of_the_device_in_use(tmp_path: Path) -> None:
    steps = [{"step": n, "loss": float(n)} for n in range(1, 41)] + [{"step": 41, "loss": float("nan")}]
    run = facts(tmp_path, steps=steps, metrics={"seconds": 7200, "processes": 2, "machine": {"kind": "cuda"}})
    metrics = run_metrics(run)
    assert (metrics["cpu_hours"], metrics["gpu_hours"]) == (None, 4)
    assert metrics["train_loss"] == pytest.approx(40), "the mean of the finite losses of the last 5 % of the steps"
    content = Page(metric_table(metrics)).text
    assert "GPU-hours" in content
    assert "CPU-hours" not in content
    assert run_metrics(facts(tmp_path))["cpu_hours"] is None


def test_a_tile_without_a_value_is_marked() -> None:
    assert tiles([("1", "a"), ("not recorded", "b")]).count("tile none") == 1
    metrics = dict.fromkeys(("perplexity", "bits_per_byte", "tokens_per_s", "mfu", "parameters"), None)
    content = Page(pretraining_tiles({**metrics, "heldout_accuracy": 0.25})).text
    assert "25.0 %" in content
    assert content.count("not recorded") == 5


def test_curves_have_steps_on_the_x_axis_if_the_log_has_no_tokens(tmp_path: Path) -> None:
    steps = [{"step": n, "loss": 2.0 / n, "lr": True} for n in (1, 2, 3)]
    run = facts(tmp_path, steps=steps, evaluations=[{"step": 2, "heldout_loss": 1.5}])
    content = Page(training_curves(run)).text
    assert "step" in content
    assert "tokens" not in content
    assert content.count("Not recorded") == 5, "a value that is not a number is no point of a curve"
    rows = ["1,2.0,,True", "2,1.0,,True", "2,,1.5,", "3,0.6666666666666666,,True"]
    assert curves_csv(run).splitlines() == ["step,loss,heldout_loss,lr", *rows]


def test_a_recipe_is_shown_in_brief_and_completely(tmp_path: Path) -> None:
    settings = {"model": {"width": 32, "heads": [1], "norm": {"is": "rms", "eps": 1}}, "task": {"is": "tag"}, "x": {}}
    content = Page(recipe(facts(tmp_path, recipe={"settings": settings | {"seed": 3}}))).text
    assert "width 32 · norm rms" in content
    assert "tag" in content
    assert '"eps": 1' in content
    assert "Not recorded." in recipe(facts(tmp_path))


def test_a_machine_has_its_memory_in_gib(tmp_path: Path) -> None:
    assert "8.0 GiB" in machine(facts(tmp_path, metrics={"machine": {"device": "A processor", "memory": 8 * 2**30}}))
    assert "Not recorded." in machine(facts(tmp_path))


def test_rare_sources_are_summed_up() -> None:
    counts = {f"source {n}": {"documents": 100 - n, "bytes": 1000} for n in range(15)}
    content = Page(counts_table("source", counts)).text
    assert "source 11" in content
    assert "source 12" not in content
    assert re.search(r"3 more +261 +3.0 kB", content), "88 + 87 + 86 documents"


def test_sections_without_records_say_so(tmp_path: Path) -> None:
    bare = facts(tmp_path)
    for section in (data_set_statistics, tokenizer_statistics, provenance):
        assert "Not recorded." in section(bare)
    assert "were not recorded" in licences(bare)
    assert "Not measured." in search_metrics(None)
    assert "None. No model." in masked_words(None, "No model.")
    assert "None. No model." in nearest_neighbours(ModelExamples(), "No model.")


def test_documents_without_a_licence_are_counted(run: Path) -> None:
    records = read_run(run)
    records.corpus_report["licenses"] = {"CC0-1.0": {"documents": 1}, "unknown": {"documents": 10, "bytes": 10}}
    content = Page(licences(records)).text
    assert "The sources name 2 licences" in content
    assert "10 documents named none" in content


@pytest.mark.parametrize(
    ("low", "high", "conclusion"),
    [(0.01, 0.09, "better"), (-0.09, -0.01, "worse"), (-0.01, 0.09, "no clear difference")],
)
def test_a_search_difference_is_interpreted(low: float, high: float, conclusion: str) -> None:
    content = search_metrics({"a minus b": {"mrr": 0.04, "low": low, "high": high}})
    assert f"mrr +0.040, 95 % interval {low:+.3f} … {high:+.3f}: {conclusion}" in content


def test_correct_predictions_are_highlighted() -> None:
    fill = FillExample("The ", "captain", " sleeps.", [("Captain", 0.75), ("cat", 0.25)])
    examples = ModelExamples(
        [fill], [NeighbourExample("river", [("lake", 0.9)])], [NeighbourExample("One.", [("Two.", 0.5)])], 2
    )
    markup = masked_words(examples, "")
    assert "<mark>Captain</mark> <small>75 %</small>" in markup
    assert "<mark>cat</mark>" not in markup
    content = Page(nearest_neighbours(examples, "")).text
    assert re.search(r"river +lake +0.90", content)
    assert "Nearest of 2 held-out passages" in content


def test_many_classes_have_their_most_frequent_confusions(tmp_path: Path) -> None:
    labels = [f"class {n}" for n in range(30)]
    matrix = [[9 if true == predicted else 0 for predicted in range(30)] for true in range(30)]
    matrix[4][7], matrix[2][3] = 5, 1
    test = {
        "rows": 276,
        "metrics": {"accuracy": 0.978},
        "labels": labels,
        "confusion": matrix,
        "reliability": {"confidence": [0.5, 0.9], "accuracy": [0.4, 1.0], "count": [76, 200], "error": 0.1},
        "errors": [],
    }
    (tmp_path / "details.json").write_text(json.dumps({"notes": ["one duplicate"], "test": test}))
    sections = dict(prediction_sections(tmp_path))
    assert list(sections) == ["Metrics", "Confusion matrix", "Calibration"]
    assert "one duplicate" in sections["Metrics"]
    confusions = Page(sections["Confusion matrix"]).text
    assert re.search(r"class 4 +class 7 +5 +14 +class 2 +class 3 +1 +10", confusions)
    assert "(expected calibration error) is 10.0 %" in sections["Calibration"]
    assert "accuracy, test rows" in prediction_tiles(tmp_path, {})
    (tmp_path / "details.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"details\.json: damaged"):
        prediction_sections(tmp_path)
