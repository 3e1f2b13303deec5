"""A build that is killed and run again makes the same corpus as an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from encodery.corpus import sources
from encodery.corpus.run import build_corpus

SCRIPT = """
import sys
from encodery.corpus import sources
from encodery.corpus.run import build_corpus
if __name__ == "__main__":
    sources.TASK_BYTES = 40_000
    build_corpus([sys.argv[1]], sys.argv[2], workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["read_and_filter", "minhash_signatures", "write"])
def test_a_killed_build_is_resumed(
    tmp_path: Path, text: Callable[..., str], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text(number % 360, 150)}) + "\n" for number in range(400)))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out, work = tmp_path / "out", tmp_path / ".out.draft" / "work"
    process = subprocess.Popen([sys.executable, str(script), str(path), str(out)], start_new_session=True)
    completions = work / "logs" / after / "completions"
    end = time.monotonic() + 120
    while not (completions.is_dir() and any(completions.iterdir())) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    # Only the parent is killed: the rerun must wait until its workers have finished their tasks.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    monkeypatch.setattr(sources, "TASK_BYTES", 40_000)
    resumed = build_corpus([path], out, workers=2).artifact
    fresh = build_corpus([path], tmp_path / "fresh", workers=1).artifact
    assert fresh.manifest.metrics["documents"] == 360
    assert resumed.manifest.fingerprint == fresh.manifest.fingerprint
