"""What ``/metrics`` says, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.serve.models import Model

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@final
class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        model = ["model"]
        self.requests = Counter(
            "st3_requests", "Infer requests, by HTTP status.", [*model, "status"], registry=registry
        )
        self.failures = Counter(
            "st3_request_failures", "Infer requests not answered with 200.", model, registry=registry
        )
        self.latency = Histogram(
            "st3_request_seconds",
            "From an infer request's body to its answer.",
            model,
            registry=registry,
            buckets=_SECONDS,
        )
        self.batch = Histogram("st3_batch_rows", "Rows of a batch.", model, registry=registry, buckets=_ROWS)
        self.run = Histogram("st3_run_seconds", "A batch in the engine.", model, registry=registry, buckets=_SECONDS)
        self.queue = Gauge("st3_queue_depth", "Requests that wait for a worker.", model, registry=registry)
        self.workers = Gauge("st3_workers_ready", "Worker processes that are warm.", model, registry=registry)
        self.restarts = Counter(
            "st3_worker_restarts", "Workers started in a dead one's place.", model, registry=registry
        )
        self._connections = Gauge("st3_connections", "Open connections.", registry=registry)
        self._refused = Counter("st3_connections_refused", "Connections over the limit.", registry=registry)

    def of(self, name: str) -> ModelMetrics:
        """The metrics of one model."""
        return ModelMetrics(self, name)

    def count_connections(self, count: Callable[[], float]) -> None:
        """Ask for the number of open connections when it is wanted."""
        self._connections.set_function(count)

    def refused(self) -> None:
        """A connection was over the limit."""
        self._refused.inc()

    def text(self) -> bytes:
        """The page."""
        page: bytes = generate_latest(self.registry)
        return page


@final
class ModelMetrics:
    """One model's; the labels are looked up once."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics, self._name = metrics, name
        self._latency = metrics.latency.labels(name)
        self._batch = metrics.batch.labels(name)
        self._run = metrics.run.labels(name)
        self._failures = metrics.failures.labels(name)
        self._restarts = metrics.restarts.labels(name)
        self._by_status = {200: metrics.requests.labels(name, "200")}

    def watch(self, model: Model) -> None:
        """Ask the model for its queue and workers when they are wanted."""
        self._metrics.queue.labels(self._name).set_function(lambda: model.queue_depth)
        self._metrics.workers.labels(self._name).set_function(lambda: model.workers_ready)

    def ran(self, rows: int, run_ms: float) -> None:
        """A batch ran."""
        self._batch.observe(rows)
        self._run.observe(run_ms * 1e-3)

    def restarted(self) -> None:
        """A worker is started in a dead one's place."""
        self._restarts.inc()

    def answered(self, status: int, seconds: float) -> None:
        """A request was answered."""
        if status not in self._by_status:
            self._by_status[status] = self._metrics.requests.labels(self._name, str(status))
        self._by_status[status].inc()
        self._latency.observe(seconds)
        if status != 200:
            self._failures.inc()
