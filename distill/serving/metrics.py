"""What the gateway counts for Prometheus; no label's value comes from a request.

Several worker processes count in one folder, named by `PROMETHEUS_MULTIPROC_DIR` before they start
(`shared_folder`); each of them then tells the sums of all.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from distill.serving import words
from distill.store.record import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_MODES = ("off", "shadow", "canary", "on")

# Seconds. What the gateway adds is a matter of milliseconds, the LLM one of seconds to minutes.
_ADDED = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_ROUTER = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_UPSTREAM = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


@contextmanager
def shared_folder() -> Iterator[None]:
    """For what starts worker processes: those that start in the block count together."""
    before = os.environ.get(_FOLDER)
    with TemporaryDirectory(prefix="distill-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            os.environ.pop(_FOLDER)
            if before is not None:
                os.environ[_FOLDER] = before


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"distill_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(
                f"distill_{name}", text, labels, registry=registry, multiprocess_mode="livesum"
            )

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"distill_{name}", text, registry=registry, buckets=buckets)

        self._http = counter("http_requests", "All HTTP requests.", "route", "status")
        self._requests = counter(
            "requests", "Chat completions.", "client", "mode", "decided_by", "status"
        )
        self._reasons = counter(
            "reasons", "What became of the router's decisions, or why none was.", "mode", "reason"
        )
        self._errors = counter("errors", "Answers with a fault.", "error")
        self._compared = counter("compared", "Decisions compared with the upstream's.", "mode")
        self._agreed = counter("agreed", "Of those compared, the same.", "mode")
        self._tokens = counter("tokens", "Tokens, as the upstream states them.", "direction")
        self._unrecorded = counter("unrecorded", "Records that could not be kept.")
        self._rollbacks = counter("rollbacks", "Times it went back to shadow by itself.")
        self._router = histogram("router_seconds", "Until the router had decided.", _ROUTER)
        self._upstream = histogram(
            "upstream_seconds", "Until the upstream's answer was whole.", _UPSTREAM
        )
        self._added = histogram(
            "added_seconds",
            "From a request's last byte until its record was kept, less the upstream's time.",
            _ADDED,
        )
        self._under_way = gauge("requests_under_way", "Requests passed on or being decided.")
        self._mode = gauge("rollout_mode", "Gateway processes in this mode.", "mode")
        if _FOLDER not in os.environ:
            ProcessCollector(registry=registry)

    def http(self, route: str, status: int) -> None:
        """An HTTP request is over; `route` is the app's own word for its path."""
        self._http.labels(route, words.status_class(status)).inc()

    def record(self, record: Record, kept: bool, seconds: float) -> None:
        """A chat completion is over, `seconds` after the last byte of its request."""
        status = words.status_class(record.status)
        client = record.client or ""
        self._requests.labels(client, record.mode, record.decided_by, status).inc()
        self._reasons.labels(record.mode, words.reason(record.reason)).inc()
        error = words.error(record.error)
        if error is not None:
            self._errors.labels(error).inc()
        if record.agreed is not None:
            self._compared.labels(record.mode).inc()
            self._agreed.labels(record.mode).inc(int(record.agreed))
        usage = record.usage
        for direction, tokens in (
            ("input", usage.input_tokens),
            ("cached", usage.cached_tokens),
            ("output", usage.output_tokens),
        ):
            if tokens:
                self._tokens.labels(direction).inc(tokens)
        if not kept:
            self._unrecorded.inc()
        if record.router_ms is not None:
            self._router.observe(record.router_ms / 1000)
        whole = record.error is None
        if whole and record.upstream_ms is not None:
            self._upstream.observe(record.upstream_ms / 1000)
        if whole:
            self._added.observe(max(0.0, seconds - (record.upstream_ms or 0.0) / 1000))

    def under_way(self, change: int) -> None:
        """A request began (1) or ended (-1)."""
        self._under_way.inc(change)

    def mode(self, mode: str) -> None:
        """The process's mode is this from now on."""
        for each in _MODES:
            self._mode.labels(each).set(int(each == mode))

    def rollback(self) -> None:
        """It went back to shadow by itself."""
        self._rollbacks.inc()

    def text(self) -> bytes:
        """All of it as Prometheus reads it, of all processes where they count together."""
        folder = os.environ.get(_FOLDER)
        if folder is None:
            return generate_latest(self._registry)
        for pid in _dead(Path(folder)):
            mark_process_dead(pid, folder)  # or its gauges would stay as it left them
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)
        return generate_latest(registry)


def _dead(folder: Path) -> Iterator[int]:
    """Processes that counted and are no more."""
    found = (path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db"))
    for pid in {int(word) for word in found if word.isdigit()}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            yield pid
        except PermissionError:
            continue
