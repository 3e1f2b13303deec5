"""What is counted, for Prometheus: requests, the queue, tokens of batches, truncation, and the time of each stage.

A registry of its own for each server, so that two in one process do not share figures.
"""

from __future__ import annotations

from encodery.base.extras import require

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COUNTERS = {
    "accepted": "Requests let into the engine",
    "refused": "Requests refused because too many tokens waited",
    "failed": "Requests that failed in the engine",
    "cancelled": "Requests whose client went away",
    "halved": "Batches that failed and were run again in halves",
    "dropped_tokens": "Tokens that truncation left out",
}
STAGES = ("wait", "tokenise", "queue", "run", "finish", "total")


class ServerMetrics:
    """Counts. `note` is what the engine calls, `answered` what the HTTP side does."""

    def __init__(self) -> None:
        kit = require("prometheus_client", "serve")
        self._text, self.registry = kit.generate_latest, kit.CollectorRegistry()

        def counter(name: str, told: str, labels: tuple[str, ...] = ("lane",)) -> object:
            return kit.Counter(f"encodery_{name}", told, labels, registry=self.registry)

        self._counters = {name: counter(name, told) for name, told in COUNTERS.items()}
        self._stages = kit.Histogram(
            "encodery_stage_seconds", "Time of a request in each stage", ("lane", "stage"),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batches = kit.Histogram(
            "encodery_batch_tokens", "Tokens of a batch; none of them is padding", ("lane",),
            buckets=TOKENS, registry=self.registry,
        )  # fmt: skip
        self._computing = counter("batch_seconds", "Time spent computing batches")
        self._waiting = kit.Gauge("encodery_waiting_tokens", "Tokens that wait for a batch", registry=self.registry)
        self._padding = kit.Gauge("encodery_padding_tokens", "Padding computed, ever", registry=self.registry)
        self._padding.set(0)
        self._answers = kit.Counter(
            "encodery_responses", "Responses", ("route", "status", "code"), registry=self.registry
        )

    def record(self, name: str, lane: str, value: float) -> None:
        """From the engine: `name` counted `value` in a lane."""
        if name == "waiting":
            self._waiting.set(value)
        elif name == "batch_tokens":
            self._batches.labels(lane).observe(value)
        elif name == "batch_seconds":
            self._computing.labels(lane).inc(value)  # type: ignore[attr-defined]
        elif name.removesuffix("_seconds") in STAGES:
            self._stages.labels(lane, name.removesuffix("_seconds")).observe(value)
        elif value:
            self._counters[name].labels(lane).inc(value)  # type: ignore[attr-defined]

    def record_response(self, route: str, status: int, code: str) -> None:
        """A response, with the code of what was refused or an empty one."""
        self._answers.labels(route, str(status), code).inc()

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        found: bytes = self._text(self.registry)
        return found
