"""The whole path on one text, verb by verb, as a user would type it. What is finished is not done again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from encodery.base.artifact import atomic_write
from encodery.base.errors import UserError
from encodery.demo.gather import SOURCES, gather
from encodery.demo.search_quality import search_quality

RESERVE = 100.0  # seconds that judging, export and report need
SHORTEST = 60.0
LONGEST_LINE = 160
SECONDS_PER_MB = 3.0  # of indexing, per MB of clean text, on two cores


@dataclass(frozen=True)
class Demo:
    """`text`: a folder of one's own, or None to gather documentation. `minutes`: for all of it, counted from `since`
    (seconds since the epoch); pre-training gets what the other steps leave."""

    out: Path
    text: Path | None
    minutes: float
    started_at: float
    recipe: str = "demo"

    def run(self, log: Callable[[str], None]) -> Path:
        """Everything up to the report; returns its path. Raises `UserError` naming the step that failed."""
        text = self._text(log)
        corpus, tokens, run, index = (self.out / name for name in ("corpus", "tokens", "run", "index"))
        self._verb("corpus", "build", text, "--out", corpus, *self._licenses(text))
        self._verb("tokens", "train", corpus, "--out", self.out / "tokenizer", "kind=wordpiece", "vocab_size=8192")
        self._verb("tokens", "encode", corpus, "--tokenizer", self.out / "tokenizer", "--out", tokens)
        if not (run / "model").exists():
            self._pretrain(tokens, run, corpus)
        self._verb("search", "index", corpus, "--model", run, "--out", index)
        found = search_quality(index, corpus, log)
        if found:
            atomic_write(run / "search.json", json.dumps(found, indent=1))
        if not (self.out / "export").exists():
            self._verb("model", "export", run, "--format", "hf", "--out", self.out / "export")
        report = self.out / "report.html"
        self._verb("report", run, "--out", report)
        return report

    def _text(self, say: Callable[[str], None]) -> Path:
        if self.text is not None:
            return self.text
        folder = self.out / "text"
        rows = gather(folder, say)
        size = sum(row.bytes for row in rows) / 1e6
        say(f"{size:.0f} MB of documentation from {len(rows)} packages, licences in {folder / SOURCES}")
        return folder

    def _licenses(self, text: Path) -> list[str]:
        """The setting that names each gathered package's licence."""
        if self.text is not None:
            return []
        rows = json.loads((text / SOURCES).read_text(encoding="utf-8"))
        named = ", ".join(f'"{row["package"]}" = "{row["license"]}"' for row in rows)
        return ["license={" + named + "}"]

    def _pretrain(self, tokens: Path, run: Path, corpus: Path) -> None:
        if (run / "checkpoints").exists():
            self._verb("resume", run)
            return
        size = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["metrics"]["bytes"] / 1e6
        left = 60 * self.minutes - (time.time() - self.started_at) - RESERVE - SECONDS_PER_MB * size
        self._verb("pretrain", tokens, "--recipe", self.recipe, "--out", run, "--budget", f"{max(left, SHORTEST):.0f}s")

    def _verb(self, *arguments: str | Path) -> None:
        words = [str(argument) for argument in arguments]
        line = " ".join(words)
        print(f"\n$ encodery {line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + ' ...'}", flush=True)
        outcome = subprocess.run([sys.executable, "-m", "encodery", *words], check=False)
        if outcome.returncode:
            raise UserError(
                f"The demo stopped at `encodery {' '.join(words)}`; mend it and run the demo again to go on."
            )
