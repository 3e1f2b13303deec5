"""What a run shows while it trains: a live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

PLAIN_EVERY = 10.0  # seconds between two lines, where there is no terminal
SMOOTH = 0.1  # weight of the last step in the running means of loss and speed
Line = dict[str, Any]


class Display(abc.ABC):
    """Contract of a display."""

    @abc.abstractmethod
    def show(self, line: Line) -> None:
        """Show a line of the log."""

    @abc.abstractmethod
    def info(self, text: str) -> None:
        """Show a sentence before the run starts."""

    @abc.abstractmethod
    def warn(self, text: str) -> None:
        """Show a sentence that must not be overlooked."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        """Stop updating; the last state stays visible."""
        return


class SilentDisplay(Display):
    """The display that shows nothing: for libraries, tests and ranks other than 0."""

    def show(self, line: Line) -> None:
        pass

    def info(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class ConsoleDisplay(Display):
    """Progress on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.values: Line = {}
        self.loss = self.speed = 0.0
        self.first: tuple[float, float] | None = None  # elapsed and progress of the first line
        self.live: Live | None = None
        self.printed_at, self.printed = 0.0, ""

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
        elif self.values:
            self._print()

    def info(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(text, style="yellow", highlight=False, markup=False)

    def show(self, line: Line) -> None:
        self.values |= line
        if self.first is None:
            self.first = (line["elapsed"], line["progress"])
        if "loss" in line and line["loss"] == line["loss"]:
            self.loss = self.loss + SMOOTH * (line["loss"] - self.loss) if self.loss else line["loss"]
        if "loss" in line:
            speed = line["tokens_per_s"]
            self.speed = self.speed + SMOOTH * (speed - self.speed) if self.speed else speed
        if self.live is None and time.monotonic() - self.printed_at >= PLAIN_EVERY:
            self.printed_at = time.monotonic()
            self._print()

    def _print(self) -> None:
        """Print the current state, unless it is what was printed last."""
        text = self.text()
        if text != self.printed:
            self.console.print(text, highlight=False, soft_wrap=True)
        self.printed = text

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, estimated from the progress since this display started."""
        if self.first is None or self.values["progress"] <= self.first[1]:
            return None
        seconds = self.values["elapsed"] - self.first[0]
        left: float = seconds * (1 - self.values["progress"]) / (self.values["progress"] - self.first[1])
        return left

    def fields(self) -> list[tuple[str, str]]:
        """The names and texts of what is shown."""
        values = self.values
        fields = [("loss", f"{self.loss:.3f}")]
        if "heldout_loss" in values:
            fields.append(("held-out", describe_heldout(values)))
        dev = [(name.replace("_", " "), f"{value:.3f}") for name, value in values.items() if name.startswith("dev_")]
        fields += dev[:2]
        speed = f"{self.speed:,.0f} tokens/s"
        if "mfu" in values:
            speed += f", {values['mfu']:.0%} of the matrix peak"
        fields += [("speed", speed), ("lr", f"{values.get('lr', 0):.2e}")]
        if "mask_rate" in values:
            fields.append(("masked", f"{values['mask_rate']:.1%}"))
        if "epoch" in values:
            fields.append(("epoch", f"{values['epoch']:.2f}"))
        if values.get("skipped"):
            fields.append(("skipped steps", str(values["skipped"])))
        fields.append(("left", "…" if self.seconds_left is None else format_duration(self.seconds_left)))
        return fields

    def text(self) -> str:
        """The state as one line."""
        values = self.values
        tokens = f"{values['tokens'] / 1e6:,.1f}M tokens"
        head = f"{values['progress']:4.0%} step {values['step']:,} {tokens} {format_duration(values['elapsed'])}"
        return " | ".join([head, *(f"{name} {value}" for name, value in self.fields())])

    def panel(self) -> RenderableType:
        """The live panel."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if not self.values:
            return "starting …"
        values = self.values
        tokens = f"{values['tokens'] / 1e6:,.1f} M tokens"
        head = f"step {values['step']:,}   {tokens}   {format_duration(values['elapsed'])}"
        table = Table.grid(padding=(0, 2))
        table.add_row(f"{values['progress']:.0%}", ProgressBar(total=1.0, completed=values["progress"], width=40))
        for name, value in self.fields():
            table.add_row(name, value)
        return Group(head, table)


def format_duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def describe_heldout(values: Mapping[str, float]) -> str:
    """The held-out metrics in a line: the loss, and what else the objective is judged by."""
    parts = [f"{values['heldout_loss']:.3f}"]
    if "heldout_accuracy" in values:
        parts.append(f"accuracy {values['heldout_accuracy']:.1%}")
    if "bits_per_byte" in values:
        parts.append(f"{values['bits_per_byte']:.3f} bits per byte")
    return ", ".join(parts)
