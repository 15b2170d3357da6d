"""Send the spans of this process to a collector. Imported only by a process that does so: it needs much memory.

Spans wait in a bounded queue and are sent by a thread. A collector that is down or slow costs spans, but nothing else.

Calls of other systems (MongoDB, the Docker engine, the storage) are recorded only within another span. A heartbeat,
the renewal of a lease or a scan that finds nothing would otherwise each be a trace of one call, many times a second
in a fleet, without information beyond the metrics. See :class:`WithinSpans`.

The libraries that instrument MongoDB and HTTP are used, the one for gRPC is not: the only call is a stream that lasts
as long as its worker, and so would its span; and the library's server side cannot wrap a handler that writes to its
stream. The context is passed in the call's metadata and in each assignment instead.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes
from pymongo.monitoring import CommandFailedEvent

from libs.core.config.process_settings import TracingSettings
from libs.core.observability.log import get_logger
from libs.core.transport.watched_files import FileRejected, WatchedFiles

log = get_logger(__name__)

FLUSH_SECONDS = 3.0
"""How long a stopping process may take to send the remaining spans."""

_HOPELESS_FLUSH_SECONDS = 0.5
_QUIET_SECONDS = 600.0
_EXCLUDED = "OTEL_PYTHON_AIOHTTP_SERVER_EXCLUDED_URLS"
_PROBES = "/(healthz|readyz|grpcz|metrics)$"


@dataclass(frozen=True)
class Origin:
    """The resource of this process's spans; the standard variables extend and override it."""

    service: str
    role: str
    worker: str
    version: str


class TraceExport:
    """The export of one process's spans. One per process, for its whole life."""

    def __init__(self, settings: TracingSettings, origin: Origin) -> None:
        self._exporter = CalmExporter(_exporter_of(settings), settings.endpoint or "")
        # The only events are errors recorded by libraries, and they quote messages.
        limits = SpanLimits(max_events=0)
        self._provider = TracerProvider(resource=_resource(origin), span_limits=limits, shutdown_on_exit=False)
        self._provider.sampler = WithinSpans(self._provider.sampler)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    def start(self) -> None:
        """Start recording. Call it before clients of other systems are created."""
        trace.set_tracer_provider(self._provider)
        # Excluded unless configured otherwise: probes and scrapes come every few seconds and do nothing.
        if "OTEL_PYTHON_EXCLUDED_URLS" not in os.environ:
            os.environ.setdefault(_EXCLUDED, _PROBES)
        AioHttpServerInstrumentor().instrument()
        AioHttpClientInstrumentor().instrument()
        # Commands contain configs. Only their names and collections are recorded.
        PymongoInstrumentor().instrument(capture_statement=False, failed_hook=_tell_code_only)

    async def close(self) -> None:
        """Send waiting spans within :data:`FLUSH_SECONDS`; the rest is lost. May be repeated."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(sent.set)

        # Not a pool thread: Python waits for those before it exits.
        threading.Thread(target=shut_down, name="last traces", daemon=True).start()
        try:
            async with asyncio.timeout(_HOPELESS_FLUSH_SECONDS if self._exporter.failing else FLUSH_SECONDS):
                await sent.wait()
        except TimeoutError:
            self._exporter.shutdown()


class WithinSpans(Sampler):
    """Drops calls of other systems outside of any span; passes the rest to *inner*, the configured sampler."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Return whether to record a span."""
        if kind is SpanKind.CLIENT and not trace.get_current_span(parent_context).get_span_context().is_valid:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return a description."""
        return f"WithinSpans({self._inner.get_description()})"


class CalmExporter(SpanExporter):
    """Passes spans to *inner*, and logs one line when that starts to fail, and one when it works again."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._lost = 0
        self._complaints = _Complaints()
        self._shut = threading.Lock()
        self.failing = False
        """Whether the last attempt failed."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*; those that cannot be sent are lost."""
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - no failed export may end the process
            self._complaints.last = f"{type(error).__name__}: {error}"
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self.failing:
                log.info("traces are exported again", endpoint=self._endpoint, lost_spans=self._lost)
            self.failing, self._lost = False, 0
            return result
        self._lost += len(spans)
        if not self.failing:
            log.warning(
                "traces cannot be exported; spans are lost",
                endpoint=self._endpoint,
                reason=self._complaints.last,
            )
        self.failing = True
        return result

    def shutdown(self) -> None:
        """Give up the current export. May be repeated."""
        # Its own warning about a second call would be the last line of every process.
        if self._shut.acquire(blocking=False):
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: no spans are kept here."""
        return self._inner.force_flush(timeout_millis)


class HeadersOfAFile(SpanExporter):
    """Exports with the headers in *files*: when they are replaced, another exporter is made by *make*."""

    def __init__(self, files: WatchedFiles[str], make: Callable[[str], SpanExporter]) -> None:
        self._files = files
        self._make = make
        self._version, headers = files.versioned()
        self._inner = make(headers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans* with the current headers."""
        version, headers = self._files.versioned()
        if version != self._version:
            former, self._inner, self._version = self._inner, self._make(headers), version
            former.shutdown()
        return self._inner.export(spans)

    def shutdown(self) -> None:
        """Give up the current export."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the current exporter."""
        return self._inner.force_flush(timeout_millis)


class _Complaints(logging.Filter):
    """Removes the exporter's own lines, which come with every attempt, from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._full_at = float("-inf")
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").addFilter(self)
        logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is logged."""
        if record.name.startswith("opentelemetry.sdk"):
            # The queue is full: spans are created faster than sent. Log it once in a while.
            quiet = time.monotonic() - self._full_at < _QUIET_SECONDS
            self._full_at = self._full_at if quiet else time.monotonic()
            return not quiet
        if record.levelno >= logging.WARNING:
            self.last = record.getMessage()
        return False


def _exporter_of(settings: TracingSettings) -> SpanExporter:
    def made(headers: str | None) -> SpanExporter:
        return OTLPSpanExporter(endpoint=settings.endpoint, headers=headers)

    if settings.headers is None:
        return made(None)
    if settings.headers_file is None:
        return made(settings.headers.get_secret_value())
    return HeadersOfAFile(
        WatchedFiles([("OTEL_EXPORTER_OTLP_HEADERS_FILE", Path(settings.headers_file))], _headers_in), made
    )


def _headers_in(contents: Sequence[bytes]) -> str:
    headers = contents[0].decode(errors="replace").strip()
    if not headers:
        raise FileRejected("OTEL_EXPORTER_OTLP_HEADERS_FILE", "it is empty")
    return headers


def _resource(origin: Origin) -> Resource:
    attributes = {
        "service.name": origin.service,
        "service.version": origin.version,
        "service.instance.id": origin.worker,
        "runtime.role": origin.role,
    }
    return Resource.create({**attributes, **OTELResourceDetector().detect().attributes})


def _tell_code_only(span: Span, event: CommandFailedEvent) -> None:
    """Remove the server's message, which may quote the rejected document."""
    failure: Any = event.failure
    span.set_status(Status(StatusCode.ERROR, str(failure.get("codeName", "")) if isinstance(failure, dict) else ""))
