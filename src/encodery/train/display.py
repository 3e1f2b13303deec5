"""What a run shows while it goes: a live panel on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

PLAIN_EVERY = 10.0  # seconds
SMOOTH = 0.1
Line = dict[str, Any]


class Display:
    """The display that shows nothing: for tests, libraries and ranks other than 0."""

    def show(self, line: Line) -> None:
        """A line of the log."""

    def info(self, text: str) -> None:
        """A sentence before the run begins."""

    def warn(self, text: str) -> None:
        """A sentence that must not be overlooked."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        """Leave the last state standing."""


class ConsoleDisplay(Display):
    """Progress on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.now: Line = {}
        self.loss = self.speed = 0.0
        self.began: tuple[float, float] | None = None
        self.live: Live | None = None
        self.told, self.said = 0.0, ""

    def __enter__(self) -> ConsoleDisplay:
        if self.console.is_terminal:
            from rich.live import Live

            self.live = Live(get_renderable=self.panel, console=self.console, refresh_per_second=2, transient=False)
            self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.live is not None:
            self.live.__exit__(kind, value, at)
            self.live = None
        elif self.now:
            self._say()

    def info(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False, markup=False)

    def show(self, line: Line) -> None:
        self.now |= line
        if self.began is None:
            self.began = (line["elapsed"], line["progress"])
        if "loss" in line and line["loss"] == line["loss"]:
            self.loss = self.loss + SMOOTH * (line["loss"] - self.loss) if self.loss else line["loss"]
        if "loss" in line:
            speed = line["tokens_per_s"]
            self.speed = self.speed + SMOOTH * (speed - self.speed) if self.speed else speed
        if self.live is None and time.monotonic() - self.told >= PLAIN_EVERY:
            self.told = time.monotonic()
            self._say()

    def _say(self) -> None:
        """A line of how it stands, unless that is what was said last."""
        text = self.text()
        if text != self.said:
            self.console.print(text, highlight=False, soft_wrap=True)
        self.said = text

    @property
    def left(self) -> float | None:
        """Seconds to the end, judged by the progress of this sitting."""
        if self.began is None or self.now["progress"] <= self.began[1]:
            return None
        took = self.now["elapsed"] - self.began[0]
        left: float = took * (1 - self.now["progress"]) / (self.now["progress"] - self.began[1])
        return left

    def values(self) -> list[tuple[str, str]]:
        """Name and text of what is shown."""
        now = self.now
        rows = [("loss", f"{self.loss:.3f}")]
        if "heldout_loss" in now:
            held = (
                f"{now['heldout_loss']:.3f}, {now['heldout_accuracy']:.1%} right, {now['bits_per_byte']:.3f} bits/byte"
            )
            rows.append(("held-out", held))
        dev = [(name.replace("_", " "), f"{value:.3f}") for name, value in now.items() if name.startswith("dev_")]
        rows += dev[:2]
        speed = f"{self.speed:,.0f} tokens/s"
        if "mfu" in now:
            speed += f", {now['mfu']:.0%} of the matrix peak"
        rows += [("speed", speed), ("rate", f"{now.get('lr', 0):.2e}")]
        if "mask_rate" in now:
            rows.append(("masked", f"{now['mask_rate']:.1%}"))
        if "epoch" in now:
            rows.append(("epoch", f"{now['epoch']:.2f}"))
        if now.get("skipped"):
            rows.append(("skipped steps", str(now["skipped"])))
        rows.append(("left", "…" if self.left is None else format_duration(self.left)))
        return rows

    def text(self) -> str:
        """One line."""
        now = self.now
        tokens = f"{now['tokens'] / 1e6:,.1f}M tokens"
        head = f"{now['progress']:4.0%} step {now['step']:,} {tokens} {format_duration(now['elapsed'])}"
        return " | ".join([head, *(f"{name} {value}" for name, value in self.values())])

    def panel(self) -> RenderableType:
        """The live panel."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if not self.now:
            return "starting …"
        now = self.now
        head = f"step {now['step']:,}   {now['tokens'] / 1e6:,.1f} M tokens   {format_duration(now['elapsed'])}"
        table = Table.grid(padding=(0, 2))
        table.add_row(f"{now['progress']:.0%}", ProgressBar(total=1.0, completed=now["progress"], width=40))
        for name, value in self.values():
            table.add_row(name, value)
        return Group(head, table)


def format_duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
