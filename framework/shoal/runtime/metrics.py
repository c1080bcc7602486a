"""Counters that cost the request path a few list increments; their text form is made only when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Protocol

from shoal.core.limits import HANDLER_SERIES_MAX

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Upper bounds in seconds: a factor of 2 to 2.5 between two, from a cached answer to the longest deadline.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
_CLASSES: Final = ("", "1xx", "2xx", "3xx", "4xx", "5xx")
UNMATCHED: Final = "-"  # requests that reached no handler


class Histogram:
    """Counts per bucket of ``BOUNDS`` (seconds) and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Give (upper bound, count up to it), as Prometheus wants them."""
        return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(self.counts), strict=True))


class PoolCounters(Protocol):
    """What the pool's client counts by itself."""

    @property
    def retries(self) -> int:
        """Calls sent once more to another replica."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...


class _Handler:
    __slots__ = ("classes", "duration", "queue")

    def __init__(self) -> None:
        self.classes = [0] * len(_CLASSES)
        self.duration = Histogram()
        self.queue = Histogram()


class _Model:
    __slots__ = ("duration", "outcomes")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.duration = Histogram()


@dataclass(slots=True, eq=False)
class Metrics:
    """All counters of one function process; ``gauges`` are read at the scrape."""

    service: str
    revision: str
    gauges: Mapping[str, tuple[str, Callable[[], float]]] = field(default_factory=dict)  # name -> (help, value)
    _handlers: dict[str, _Handler] = field(default_factory=dict)
    _models: dict[str, _Model] = field(default_factory=dict)
    pool: PoolCounters | None = None
    _registry: Any = None

    def request(self, handler: str, status: int, seconds: float, queue_s: float) -> None:
        """Count one finished request; names past ``HANDLER_SERIES_MAX`` share one series."""
        series = self._handlers.get(handler)
        if series is None:
            name = handler if len(self._handlers) < HANDLER_SERIES_MAX else UNMATCHED
            series = self._handlers.setdefault(name, _Handler())
        series.classes[status // 100] += 1
        series.duration.add(seconds)
        if queue_s:
            series.queue.add(queue_s)
        else:
            series.queue.counts[0] += 1

    def model_call(self, version: str, outcome: str, seconds: float) -> None:
        """Count one call to a model; ``outcome`` is ``ok`` or the error's code."""
        series = self._models.get(version)
        if series is None:
            series = self._models.setdefault(version, _Model())
        series.outcomes[outcome] = series.outcomes.get(outcome, 0) + 1
        series.duration.add(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the exposition text and its content type; the first call imports the library that writes it."""
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as a collector of prometheus_client does."""
        yield from self._collect_gauges()
        yield from self._collect_requests()
        yield from self._collect_models()
        yield from self._collect_pool()

    def _collect_gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        for name, (text, value) in self.gauges.items():
            family = GaugeMetricFamily(name, text, labels=("service", "revision"))
            family.add_metric((self.service, self.revision), value())
            yield family

    def _collect_requests(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        labels = ("service", "revision", "handler")
        requests = CounterMetricFamily("shoal_requests", "Requests answered.", labels=(*labels, "status"))
        duration = HistogramMetricFamily("shoal_request_duration_seconds", "Request to answer.", labels=labels)
        queue = HistogramMetricFamily("shoal_request_queue_seconds", "Waiting for a slot.", labels=labels)
        for name, series in self._handlers.items():
            values = (self.service, self.revision, name)
            for status, count in zip(_CLASSES, series.classes, strict=True):
                if count:
                    requests.add_metric((*values, status), count)
            duration.add_metric(values, series.duration.cumulative(), series.duration.total)
            queue.add_metric(values, series.queue.cumulative(), series.queue.total)
        yield from (requests, duration, queue)

    def _collect_models(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        labels = ("service", "revision", "model")
        calls = CounterMetricFamily("shoal_model_calls", "Calls to models.", labels=(*labels, "outcome"))
        duration = HistogramMetricFamily("shoal_model_call_duration_seconds", "Call to tensors.", labels=labels)
        for name, series in self._models.items():
            values = (self.service, self.revision, name)
            for outcome, count in series.outcomes.items():
                calls.add_metric((*values, outcome), count)
            duration.add_metric(values, series.duration.cumulative(), series.duration.total)
        yield from (calls, duration)

    def _collect_pool(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        if self.pool is not None:
            values, labels = (self.service, self.revision), ("service", "revision")
            retries = CounterMetricFamily("shoal_pool_retries", "Calls tried on a second replica.", labels=labels)
            retries.add_metric(values, self.pool.retries)
            in_flight = GaugeMetricFamily("shoal_pool_calls_in_flight", "Calls to the pool.", labels=labels)
            in_flight.add_metric(values, self.pool.in_flight)
            yield from (retries, in_flight)
