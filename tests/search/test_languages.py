"""BM25 in languages with and without spaces between words; the language of an index is found in its documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encodery.base.artifact import Artifact
from encodery.cli.__main__ import run
from encodery.search.build import IndexSettings, build
from encodery.search.engine._analyser import Analyser
from encodery.search.engine.edge import Edge
from encodery.search.searcher import Searcher

edge = pytest.importorskip("qdrant_edge", reason="the extra `search` is not installed")

# Language -> documents, the first of which answers the query.
DOCUMENTS = {
    "german": (
        "Türme",
        "Der Turm der alten Kirche steht auf dem Hügel, und man sieht ihn in der ganzen Stadt.",
        "Die Bäcker in der Stadt backen das Brot mit dem Mehl aus der Mühle und nicht aus dem Laden.",
        "Ein Fluss fließt durch das Tal, in dem die Häuser sind.",
    ),
    "russian": (
        "книгами",
        "В этой комнате много книг, и он читает их по вечерам, но не все из них новые.",
        "Она живёт на берегу реки и каждое утро ходит к лесу, а по вечерам не выходит из дома.",
        "Мы не знаем, что будет с этим домом и как он стоял до войны.",
    ),
    "japanese": ("成語", "今日は成語しりとりをした。", "明日は京都で友達に会います。", "この本はとても面白いです。"),
    "chinese": ("成语", "他在学校里学习成语和古诗。", "我们今天去北京大学看书。", "天气很好,我们去公园走走。"),
    "khmer": ("អាកាសធាតុ", "អាកាសធាតុថ្ងៃនេះល្អណាស់", "ខ្ញុំចូលចិត្តអានសៀវភៅ", "គាត់រស់នៅភ្នំពេញ"),
    "thai": ("วรรณยุกต์", "ภาษาไทยมีระดับเสียงหรือวรรณยุกต์", "วันนี้อากาศดีมาก", "เขาชอบกินข้าวผัด"),
}


@pytest.mark.parametrize("language", DOCUMENTS)
def test_the_language_is_found_and_stored_and_words_are_found(language: str, tmp_path: Path) -> None:
    query, *texts = DOCUMENTS[language]
    rows = [{"id": f"d{number}", "text": text} for number, text in enumerate(texts)]
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    built = build([file], tmp_path / "index", None)
    assert built.artifact.manifest.settings["index"]["engine"]["language"] == language
    assert not build([file], tmp_path / "index", None).is_new
    with Searcher.open(tmp_path / "index") as searcher:
        results = searcher.search(query, top_k=3).hits
        assert results[0].document == "d0"
        assert results[0].text == texts[0]
        assert results[0].matches, "nothing is highlighted"
        begin, end = results[0].matches[0]
        assert query[:3].casefold() in texts[0][begin:end].casefold() or language in ("german", "russian")


def test_a_language_that_is_set_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Der Turm der Kirche steht auf dem Hügel und nicht in der Stadt.", encoding="utf-8")
    build([tmp_path / "a.txt"], tmp_path / "index", None, IndexSettings(engine=Edge(language="none")))
    assert Artifact.open(tmp_path / "index").manifest.settings["index"]["engine"]["language"] == "none"


def test_the_command_prints_the_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Der Turm der Kirche steht auf dem Hügel und nicht in der Stadt.", encoding="utf-8")
    assert run(["search", "index", str(tmp_path / "a.txt"), "--out", str(tmp_path / "index")]) == 0
    assert "language   german" in capsys.readouterr().out


def test_marks_in_a_language_without_spaces() -> None:
    analyser = Analyser(edge, "japanese")
    text = "今日は成語しりとりをした"
    assert [text[begin:end] for begin, end in analyser.matches("成語", text)] == ["成語"]
    assert [text[begin:end] for begin, end in analyser.matches("語", text)] == ["語"]
    assert analyser.matches("成語 brown", "a brown fox は") == [(2, 7)]
