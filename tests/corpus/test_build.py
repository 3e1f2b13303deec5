"""Complete builds of small folders: duplicates, splits, the report, bad input, reruns."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from encodery.base.artifact import Artifact
from encodery.base.errors import (
    ArtifactError,
    DiskFull,
    EmptyInput,
    InputError,
    MissingExtra,
    SettingsError,
    UserError,
)
from encodery.base.settings import decode_with_overrides, parse_overrides
from encodery.cli.corpus import _steps_table
from encodery.corpus import engine, heldout, sources
from encodery.corpus.run import build_corpus
from encodery.corpus.settings import CorpusSettings
from encodery.corpus.shards import SPLITS, read_documents, shard_paths
from encodery.corpus.stats import measure_corpus

Make = Callable[..., str]


def settings(*arguments: str) -> CorpusSettings:
    return decode_with_overrides(CorpusSettings, {}, parse_overrides(arguments))


def texts(corpus: Path, split: str | None = None) -> list[str]:
    return [d.text for s in SPLITS if split in (None, s) for d in read_documents(shard_paths(corpus, s))]


def rows(folder: Path, documents: list[str], name: str = "rows.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents), encoding="utf-8")
    return path


def report(corpus: Path) -> Any:
    return json.loads((corpus / "report.json").read_text(encoding="utf-8"))


def test_a_folder_becomes_a_corpus(tmp_path: Path, text: Make) -> None:
    folder = tmp_path / "in"
    (folder / "pack" / "deep").mkdir(parents=True)
    for number in range(30):
        (folder / "pack" / "deep" / f"{number}.txt").write_text(text(number))
    (folder / "note.md").write_text("# Note\n\n" + text(100))
    (folder / ".hidden.txt").write_text(text(101))
    rows(folder, [text(200), "too short"])
    build = build_corpus([folder], tmp_path / "out", settings("license=CC0"), workers=1)
    assert build.fresh
    metrics = build.artifact.manifest.metrics
    assert metrics["documents"] == 32
    assert 1 <= metrics["heldout_documents"] == len(texts(tmp_path / "out", "heldout")) <= 3
    expected = [*(text(n) for n in range(30)), "# Note\n\n" + text(100), text(200)]
    assert sorted(texts(tmp_path / "out")) == sorted(expected)
    documents = [d for split in SPLITS for d in read_documents(shard_paths(tmp_path / "out", split))]
    assert {d.metadata["source"] for d in documents} == {"pack", "in"}
    assert {d.metadata["license"] for d in documents} == {"CC0"}
    assert "pack/deep/3.txt" in {d.metadata["path"] for d in documents}
    assert all(d.id == heldout.text_id(d.text) for d in documents)
    written = report(tmp_path / "out")
    assert written["licenses"] == {"CC0": {"documents": 32, "bytes": sum(len(d.text.encode()) for d in documents)}}
    assert written["dropped"] == {
        "filter length": {
            "too_short": {"documents": 1, "bytes": 9, "samples": [{"path": "rows.jsonl", "text": "too short"}]}
        }
    }
    build.artifact.verify()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_licences_by_source(tmp_path: Path, text: Make) -> None:
    for number, package in enumerate(("one", "two")):
        (tmp_path / "in" / package).mkdir(parents=True)
        (tmp_path / "in" / package / "a.txt").write_text(text(number))
    build_corpus([tmp_path / "in"], tmp_path / "out", settings('license={"one" = "MIT"}'), workers=1)
    documents = [d.metadata for split in SPLITS for d in read_documents(shard_paths(tmp_path / "out", split))]
    assert {m["source"]: m.get("license") for m in documents} == {"one": "MIT", "two": None}


def test_exact_and_near_duplicates_go_and_distinct_texts_stay(tmp_path: Path, text: Make) -> None:
    distinct = [text(number, 200) for number in range(40)]
    near = [one.replace("river", "stream", 1) + "\n\nOne more sentence." for one in distinct[:10]]
    same = [one.upper().replace("\n\n", "\n\n\n") for one in distinct[10:20]]
    shared = [one[: len(one) // 3].strip() + "\n\n" + text(900 + n, 300) for n, one in enumerate(distinct[20:30])]
    rows(tmp_path / "in", distinct + near + same + shared)
    build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    kept = texts(tmp_path / "out")
    written = report(tmp_path / "out")["dropped"]
    assert written["dedup exact"]["duplicate"]["documents"] == 10
    assert written["dedup minhash"]["duplicate"]["documents"] == 10
    assert set(distinct[10:]) | set(shared) <= set(kept)
    assert len(kept) == 50
    assert all((a in kept) != (b in kept) for a, b in zip(distinct, near, strict=False))


def test_one_of_each_cluster_survives_exact_and_near_dedup_together(tmp_path: Path, text: Make) -> None:
    base = [text(number, 200) for number in range(12)]
    inputs = []
    for number, one in enumerate(base):
        inputs += [one, one.lower(), one + f"\n\nTail {number}.", one.replace(".", "!", 1)]
    rows(tmp_path / "in", inputs)
    build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    kept = texts(tmp_path / "out")
    assert len(kept) == 12
    assert {one[:30].lower() for one in base} == {one[:30].lower() for one in kept}


def test_the_result_does_not_depend_on_workers(tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TASK_BYTES", 20_000)
    inputs = [text(number % 70, 100) + (f"\n\nExtra {number}." if number >= 70 else "") for number in range(100)]
    rows(tmp_path / "in", inputs)
    for number in range(10):
        (tmp_path / "in" / f"{number}.txt").write_text(text(1000 + number))
    one = build_corpus([tmp_path / "in"], tmp_path / "one", workers=1).artifact
    two = build_corpus([tmp_path / "in"], tmp_path / "two", workers=2).artifact
    assert len(shard_paths(tmp_path / "one", "train")) > 2
    assert one.manifest.metrics["documents"] == 80
    assert one.manifest.fingerprint == two.manifest.fingerprint


def test_the_split_is_by_text_alone(tmp_path: Path, text: Make) -> None:
    inputs = [text(number, 60) for number in range(400)]
    rows(tmp_path / "in", inputs)
    rows(tmp_path / "more", list(reversed(inputs + [text(number, 60) for number in range(1000, 1100)])))
    chosen = settings("heldout=0.2", "skip=['minhash']")
    build_corpus([tmp_path / "in"], tmp_path / "a", chosen, workers=1)
    build_corpus([tmp_path / "more"], tmp_path / "b", chosen, workers=1)
    a, b = set(texts(tmp_path / "a", "heldout")), set(texts(tmp_path / "b", "heldout"))
    assert 50 < len(a) < 110
    assert a == b & set(inputs)
    assert not a & set(texts(tmp_path / "a", "train"))


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 1), (15, 1), (150, 15), (1000, 20)])
def test_small_corpora_hold_out_a_tenth(count: int, expected: int) -> None:
    assert heldout.heldout_count(count, 0.01, 20) == expected


def test_the_number_of_heldout_documents() -> None:
    assert heldout.heldout_count(5000, 0.01, 20) is None
    assert heldout.heldout_count(100, 0.0, 20) is None
    assert heldout.heldout_count(100, 0.5, 20) is None
    positions = [heldout.hash_position(heldout.text_id(str(n))) for n in range(1000)]
    assert 0.4 < sum(positions) / 1000 < 0.6
    assert sum(p < heldout.heldout_threshold(sorted(positions)[:21], 20) for p in positions) == 20
    assert heldout.heldout_threshold([0.5], 1) == 1.0


def test_heldout_zero_holds_nothing_out(tmp_path: Path, text: Make) -> None:
    rows(tmp_path / "in", [text(number) for number in range(5)])
    build_corpus([tmp_path / "in"], tmp_path / "out", settings("heldout=0"), workers=1)
    assert not shard_paths(tmp_path / "out", "heldout")
    assert len(texts(tmp_path / "out", "train")) == 5


def test_bad_files_are_counted_and_listed(tmp_path: Path, text: Make) -> None:
    folder = tmp_path / "in"
    rows(folder, [text(1), text(2)])
    with (folder / "rows.jsonl").open("a") as file:
        file.write("{broken\n")
    (folder / "empty.txt").touch()
    (folder / "noise.txt").write_bytes(bytes(range(256)) * 50)
    (folder / "picture.png").write_bytes(b"\x89PNG....")
    (folder / "half.txt.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "again.txt").symlink_to("rows.jsonl")
    os.mkfifo(folder / "pipe.txt")
    build_corpus([folder], tmp_path / "out", workers=1)
    written = report(tmp_path / "out")["input"]
    assert written["skipped"] == {
        "broken link": 1, "empty": 1, "format .png": 1, "no regular file": 1, "read twice": 1,
    }  # fmt: skip
    assert written["problems"] == {"broken row": 1, "file binary": 1, "file corrupt": 1}
    named = {entry["path"] for entry in written["problem_files"]}
    assert named == {str(folder / name) for name in ("rows.jsonl", "noise.txt", "half.txt.gz")}
    assert len(texts(tmp_path / "out")) == 2


def test_a_long_document_is_split_without_loss(tmp_path: Path, text: Make) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    inputs = "\n\n".join(text(number, 200) for number in range(300))
    (folder / "book.txt").write_text(inputs)
    build_corpus([folder], tmp_path / "out", settings("rewrite.pieces.max_characters=20000"), workers=1)
    documents = [d for split in SPLITS for d in read_documents(shard_paths(tmp_path / "out", split))]
    assert len(documents) > 15
    assert max(len(d.text) for d in documents) <= 20_000
    ordered = sorted(documents, key=lambda d: int(d.metadata["piece"]))
    assert "\n\n".join(d.text for d in ordered) == inputs
    assert {d.metadata["pieces"] for d in documents} == {len(documents)}
    assert report(tmp_path / "out")["steps"]["rewrite pieces"]["split"] == 1
    screen = io.StringIO()
    Console(file=screen, width=200).print(_steps_table(report(tmp_path / "out")))
    (line,) = (
        line.replace("│", " ").replace("┃", " ") for line in screen.getvalue().splitlines() if "rewrite pieces" in line
    )
    assert line.split()[2:] == ["1", str(len(documents)), "1", "split", "into", str(len(documents))]


def test_ten_megabytes_without_a_boundary_are_split_too() -> None:
    from encodery.corpus.steps.rewrite.pieces import Pieces

    pieces = Pieces().apply("x" * 10_000_000)
    assert "".join(pieces) == "x" * 10_000_000
    assert max(map(len, pieces)) <= 100_000
    assert min(map(len, pieces)) > 50_000


def test_empty_input_is_an_error_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(EmptyInput, match="no files"):
        build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    with pytest.raises(EmptyInput, match=r"1 files were skipped \(1 format \.png\)"):
        build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    (tmp_path / "in" / "b.txt").write_text("short")
    with pytest.raises(EmptyInput, match="1 too_short"):
        build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    with pytest.raises(InputError, match="Did you mean"):
        build_corpus([tmp_path / "inn"], tmp_path / "out", workers=1)
    with pytest.raises(InputError, match="no file matches"):
        build_corpus([tmp_path / "*.nothing"], tmp_path / "out", workers=1)


def test_a_finished_corpus_is_not_built_again(tmp_path: Path, text: Make) -> None:
    path = rows(tmp_path / "in", [text(number) for number in range(5)])
    out = tmp_path / "out"
    first = build_corpus([path], out, workers=1)
    again = build_corpus([path], out, workers=1)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.artifact == again.artifact
    with pytest.raises(ArtifactError, match="other settings"):
        build_corpus([path], out, settings("heldout=0.5"), workers=1)
    rows(tmp_path / "in", [text(number) for number in range(6)])
    with pytest.raises(ArtifactError, match="other input files"):
        build_corpus([path], out, workers=1)
    assert build_corpus([path], out, workers=1, overwrite=True).artifact.manifest.metrics["documents"] == 6


def test_the_output_is_not_read_if_it_is_in_the_source(tmp_path: Path, text: Make) -> None:
    rows(tmp_path, [text(number) for number in range(5)])
    out = tmp_path / "corpus"
    build_corpus([tmp_path], out, workers=1)
    assert not build_corpus([tmp_path], out, workers=1).fresh


def test_a_full_disk_is_reported_and_the_build_is_resumed(
    tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from encodery.corpus.shard_writer import CorpusShardWriter

    path = rows(tmp_path / "in", [text(number) for number in range(30)])
    passes = []
    real = CorpusShardWriter._write

    def full(self: Any, document: Any, file: Any, name: str) -> None:
        if "split" in document["metadata"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, document, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(CorpusShardWriter, "_write", full)
        with pytest.raises(DiskFull, match="no space left"):
            build_corpus([path], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    run = engine.PassRunner.run
    logs: list[bool] = []

    def recorded(self: engine.PassRunner, each: Any) -> None:
        passes.append(each.name)
        logs.append((self.logs / each.name.replace(" ", "_") / "completions" / "00000").exists())
        run(self, each)

    monkeypatch.setattr(engine.PassRunner, "run", recorded)
    resumed = build_corpus([path], tmp_path / "out", workers=1).artifact
    assert dict(zip(passes, logs, strict=True))["read and filter"]
    assert not dict(zip(passes, logs, strict=True))["write"]
    fresh = build_corpus([path], tmp_path / "fresh", workers=1).artifact
    assert resumed.manifest.fingerprint == fresh.manifest.fingerprint


def test_work_of_other_settings_is_not_reused(tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rows(tmp_path / "in", [text(number) for number in range(30)])
    monkeypatch.setattr("encodery.corpus.run.collect_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_corpus([path], tmp_path / "out", settings("license=A"), workers=1)
    monkeypatch.undo()
    build_corpus([path], tmp_path / "out", settings("license=B"), workers=1)
    assert set(report(tmp_path / "out")["licenses"]) == {"B"}


def test_a_second_build_of_a_folder_is_refused(tmp_path: Path, text: Make) -> None:
    path = rows(tmp_path / "in", [text(1)])
    logs = tmp_path / ".out.draft" / "work" / "logs"
    script = f"""
import pathlib, sys
from encodery.corpus import engine
with engine.exclusive_build(pathlib.Path({str(logs)!r})):
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another build of this corpus is running"):
            build_corpus([path], tmp_path / "out", workers=1)
        other.communicate()
    assert build_corpus([path], tmp_path / "out", workers=1).fresh


def test_a_dead_worker_is_noticed(tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TASK_BYTES", 10_000)
    path = rows(tmp_path / "in", [text(number) for number in range(100)])
    # Unpickling the executor ends the worker process.
    monkeypatch.setattr(engine._Local, "__reduce__", lambda self: (os._exit, (9,)), raising=False)
    with pytest.raises(UserError, match="worker process died"):
        build_corpus([path], tmp_path / "out", workers=2)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'minhash'"):
        settings("skip=['minhsh']")
    with pytest.raises(SettingsError, match=r"heldout = 1\.5"):
        settings("heldout=1.5")
    with pytest.raises(SettingsError, match="Did you mean 'min_words'"):
        settings("filter.length.min_word=5")
    assert "c4" in settings("filter.c4=c4").filter
    with pytest.raises(InputError, match="'local' or 'ray'"):
        build_corpus([tmp_path], tmp_path / "out", engine="slurm")  # type: ignore[arg-type]


def test_ray_is_an_optional_package(tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    path = rows(tmp_path / "in", [text(1)])
    with pytest.raises(MissingExtra, match=r"pip install 'encodery\[ray\]'"):
        build_corpus([path], tmp_path / "out", engine="ray")


def test_statistics_of_a_corpus(tmp_path: Path) -> None:
    inputs = [
        "Ten words of Latin letters are in this one document.",
        "Тут десять слов русскими буквами в одном тексте есть вот",
    ]
    rows(tmp_path / "in", inputs)
    build_corpus([tmp_path / "in"], tmp_path / "out", settings("filter.length.min_words=1", "heldout=0.5"), workers=1)
    measured = measure_corpus(tmp_path / "out")
    assert sum(measured.documents.values()) == 2
    assert sum(measured.words.values()) == 20
    assert sum(measured.bytes.values()) == sum(len(each.encode()) for each in inputs)
    assert measured.histogram == {16: 2}
    assert set(measured.scripts) == {"Latin", "Cyrillic"}
    assert 0.4 < measured.scripts["Latin"] < 0.6
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        measure_corpus(tmp_path / "in")


def test_a_damaged_shard_is_reported(tmp_path: Path, text: Make) -> None:
    rows(tmp_path / "in", [text(number) for number in range(5)])
    build_corpus([tmp_path / "in"], tmp_path / "out", workers=1)
    shard = shard_paths(tmp_path / "out", "train")[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=shard.name):
        list(read_documents([shard]))
    with pytest.raises(ArtifactError, match=shard.name):
        Artifact.open(tmp_path / "out").verify()
    with pytest.raises(InputError, match="no split 'test'"):
        shard_paths(tmp_path / "out", "test")


def test_relative_names_are_those_of_the_working_directory(
    tmp_path: Path, text: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second build in the same process, under the same names in another folder, reads and writes there."""
    built = []
    for number, name in enumerate(("first", "second")):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "a.txt").write_text(text(seed=number), encoding="utf-8")
        monkeypatch.chdir(tmp_path / name)
        build_corpus(["in"], "out", workers=1)
        built.append(texts(tmp_path / name / "out"))
    assert len(built[0]) == len(built[1]) == 1
    assert built[0] != built[1]
