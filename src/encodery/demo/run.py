"""Run all stages on one text, verb by verb, as a user would type them. Finished stages are not repeated."""

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

RESERVED_SECONDS = 100.0  # For search quality, export and report.
MIN_SECONDS = 60.0  # Of pre-training.
MAX_LINE_LENGTH = 160
SECONDS_PER_MB = 3.0  # To index 1 MB of clean text on two cores.


@dataclass(frozen=True)
class Demo:
    """The demo.

    Attributes:
        out: the folder of all results.
        text: a folder of text; None gathers documentation.
        minutes: the time for all stages, counted from `started_at` (seconds since the epoch). Pre-training gets the
            time that the other stages leave.
        recipe: the recipe of pre-training.
    """

    out: Path
    text: Path | None
    minutes: float
    started_at: float
    recipe: str = "demo"

    def run(self, log: Callable[[str], None]) -> Path:
        """Run all stages and return the path of the report. Raises `UserError` naming the stage that failed."""
        text = self._text(log)
        corpus, tokens, run, index = (self.out / name for name in ("corpus", "tokens", "run", "index"))
        self._verb("corpus", "build", text, "--out", corpus, *self._licenses(text))
        self._verb(
            "tokens",
            "train",
            corpus,
            "--out",
            self.out / "tokenizer",
            "kind=wordpiece",
            "kind.lowercase=true",
            "vocab_size=8192",
        )
        self._verb("tokens", "encode", corpus, "--tokenizer", self.out / "tokenizer", "--out", tokens)
        if not (run / "model").exists():
            self._pretrain(tokens, run, corpus)
        self._verb("search", "index", corpus, "--model", run, "--out", index)
        quality = search_quality(index, corpus, log)
        if quality:
            atomic_write(run / "search.json", json.dumps(quality, indent=1))
        if not (self.out / "export").exists():
            self._verb("model", "export", run, "--format", "hf", "--out", self.out / "export")
        report = self.out / "report.html"
        self._verb("report", run, "--out", report)
        return report

    def _text(self, log: Callable[[str], None]) -> Path:
        if self.text is not None:
            return self.text
        folder = self.out / "text"
        packages = gather(folder, log)
        size = sum(package.bytes for package in packages) / 1e6
        log(f"{size:.0f} MB of documentation from {len(packages)} packages; licenses: {folder / SOURCES}")
        return folder

    def _licenses(self, text: Path) -> list[str]:
        """Return the setting that states the license of each package."""
        if self.text is not None:
            return []
        packages = json.loads((text / SOURCES).read_text(encoding="utf-8"))
        entries = ", ".join(f'"{package["package"]}" = "{package["license"]}"' for package in packages)
        return ["license={" + entries + "}"]

    def _pretrain(self, tokens: Path, run: Path, corpus: Path) -> None:
        if (run / "checkpoints").exists():
            self._verb("resume", run)
            return
        size = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["metrics"]["bytes"] / 1e6
        remaining = 60 * self.minutes - (time.time() - self.started_at) - RESERVED_SECONDS - SECONDS_PER_MB * size
        self._verb(
            "pretrain", tokens, "--recipe", self.recipe, "--out", run, "--budget", f"{max(remaining, MIN_SECONDS):.0f}s"
        )

    def _verb(self, *arguments: str | Path) -> None:
        command = [str(argument) for argument in arguments]
        line = " ".join(command)
        print(f"\n$ encodery {line if len(line) <= MAX_LINE_LENGTH else line[:MAX_LINE_LENGTH] + ' ...'}", flush=True)
        outcome = subprocess.run([sys.executable, "-m", "encodery", *command], check=False)
        if outcome.returncode:
            raise UserError(
                f"The demo stopped at `encodery {line}`. Correct the error and run the demo again to resume."
            )
