"""The commands of the demo, from text to report, on the documentation of this repository: every option is accepted."""

from __future__ import annotations

import html
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from encodery.base.artifact import atomic_write
from encodery.base.errors import UserError
from encodery.cli.__main__ import run
from encodery.demo import run as demo_run
from encodery.demo.gather import SOURCES
from encodery.demo.packages import GatheredPackage

PAGES = ("search", "serve", "finetune", "corpus", "tokens", "embedding", "evaluate", "quickstart")
ENCODERY = [sys.executable, "-m", "encodery"]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; `encodery` runs in this process, which saves the imports of each verb."""
    called: list[list[str]] = []
    run_process = subprocess.run

    def run_here(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[Any]:
        if list(command[:3]) != ENCODERY:
            return run_process(command, **options)
        called.append(list(command[3:]))
        return subprocess.CompletedProcess(command, run(called[-1]))

    monkeypatch.setattr(subprocess, "run", run_here)
    return called


def test_every_stage_of_the_demo_runs_and_finished_stages_are_kept(
    tmp_path: Path,
    repository: Path,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def gather(out: Path, log: Callable[[str], None]) -> list[GatheredPackage]:
        (out / "docs").mkdir(parents=True)
        for page in PAGES:
            paragraphs = (repository / "docs" / f"{page}.md").read_text(encoding="utf-8").split("\n\n")
            body = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
            (out / "docs" / f"{page}.html").write_text(f"<title>{page}</title><body>{body}</body>", encoding="utf-8")
        packages = [GatheredPackage("docs", "0.1.0", "Apache-2.0", len(PAGES), 0)]
        atomic_write(out / SOURCES, json.dumps([asdict(package) for package in packages]))
        return packages

    monkeypatch.setattr(demo_run, "gather", gather)
    monkeypatch.setattr(demo_run, "MIN_SECONDS", 1.0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("packed batches\n"))
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--minutes", "1"]) == 0, capsys.readouterr().err
    verbs = [" ".join(word for word in command[:2] if word.isalpha()) for command in commands]
    assert verbs == [
        "corpus build", "tokens train", "tokens encode", "pretrain", "search index", "model export", "report",
        "search query",
    ]  # fmt: skip
    assert 'license={"docs" = "Apache-2.0"}' in commands[0]
    for artifact in ("corpus", "tokenizer", "tokens", "run/model", "index", "export", "report.html", "run/search.json"):
        assert (out / artifact).exists(), artifact


def test_a_stage_that_fails_is_named(tmp_path: Path, commands: list[list[str]]) -> None:
    (tmp_path / "empty").mkdir()
    demo = demo_run.Demo(tmp_path / "demo", tmp_path / "empty", 1.0, 0.0)
    with pytest.raises(UserError, match=r"The demo stopped at `encodery corpus build .*empty"):
        demo.run(print)
    assert len(commands) == 1
