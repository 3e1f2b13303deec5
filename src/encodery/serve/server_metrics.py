"""Prometheus metrics of a server: requests, the queue, tokens of batches, truncation, and the time of each stage.

Each server has its own registry, so that two servers in one process do not add up.
"""

from __future__ import annotations

from collections.abc import Callable

from encodery.base.extras import require

Record = Callable[[str, str, float], None]
"""Called with the name of a metric, the endpoint, and the value."""
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COUNTERS = {
    "accepted": "Requests admitted to the engine",
    "refused": "Requests refused because too much was waiting",
    "failed": "Requests that failed in the engine",
    "cancelled": "Requests whose client went away",
    "halved": "Batches that failed and were run again in halves",
    "dropped_tokens": "Tokens dropped by truncation",
}
STAGES = ("wait", "tokenise", "queue", "run", "finish", "total")


class ServerMetrics:
    """The metrics. The engine calls `record`, the HTTP side `record_response`."""

    def __init__(self) -> None:
        prometheus = require("prometheus_client", "serve")
        self._render, self.registry = prometheus.generate_latest, prometheus.CollectorRegistry()

        def counter(name: str, description: str) -> object:
            return prometheus.Counter(f"encodery_{name}", description, ("endpoint",), registry=self.registry)

        self._counters = {name: counter(name, description) for name, description in COUNTERS.items()}
        self._stages = prometheus.Histogram(
            "encodery_stage_seconds", "Time of a request in each stage", ("endpoint", "stage"),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batches = prometheus.Histogram(
            "encodery_batch_tokens", "Tokens of a batch, none of which is padding", ("endpoint",),
            buckets=TOKENS, registry=self.registry,
        )  # fmt: skip
        self._computing = counter("batch_seconds", "Time spent on computing batches")
        self._waiting = prometheus.Gauge(
            "encodery_waiting_tokens", "Tokens that wait for a batch", registry=self.registry
        )
        self._padding = prometheus.Gauge(
            "encodery_padding_tokens", "Padding tokens computed so far", registry=self.registry
        )
        self._padding.set(0)
        self._responses = prometheus.Counter(
            "encodery_responses", "Responses", ("route", "status", "code"), registry=self.registry
        )

    def record(self, name: str, endpoint: str, value: float) -> None:
        """A value of the metric `name` of an endpoint, from the engine."""
        if name == "waiting":
            self._waiting.set(value)
        elif name == "batch_tokens":
            self._batches.labels(endpoint).observe(value)
        elif name == "batch_seconds":
            self._computing.labels(endpoint).inc(value)  # type: ignore[attr-defined]
        elif name.removesuffix("_seconds") in STAGES:
            self._stages.labels(endpoint, name.removesuffix("_seconds")).observe(value)
        elif value:
            self._counters[name].labels(endpoint).inc(value)  # type: ignore[attr-defined]

    def record_response(self, route: str, status: int, code: str) -> None:
        """A response, with the code of its error or an empty one."""
        self._responses.labels(route, str(status), code).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        rendered: bytes = self._render(self.registry)
        return rendered
