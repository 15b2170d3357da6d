"""Traces: the processing of one event across all processes involved.

A trace begins with the producer's headers (W3C `traceparent` and `tracestate`), or here when there were none. It is
propagated in existing data: the entity's document, the headers of events, an assignment,
the environment of a container.

Only the interface of OpenTelemetry is imported here. A process that does not export
(:mod:`libs.core.observability.trace_export`) records nothing; it passes the producer's trace on unchanged, and logs its
id. Attributes are names, ids and outcomes. An error's message may contain a config's value or a bot's output, so it is
only logged.
"""

import asyncio
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = [
    "Attributes",
    "Headers",
    "OpenSpan",
    "SpanKind",
    "add_trace_ids",
    "begin",
    "current",
    "outside",
    "span",
    "trace_headers",
    "trace_id",
    "trace_of",
    "traceparent",
]

Headers = Mapping[str, str]
"""`traceparent` and perhaps `tracestate`, names in lower case; empty without a trace. Malformed values are ignored."""

Attributes = Mapping[str, str | int | float | bool]

OUTCOME = "runtime.outcome"

_TRACE_HEADERS = ("traceparent", "tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()
_NOWHERE = Context()
_tracer = trace.get_tracer("the0.runtime")


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """A span that must be :meth:`end`-ed; for work that starts in one place and ends in another."""

    recorded: Span

    @classmethod
    def nothing(cls) -> "OpenSpan":
        """Wraps no span."""
        return cls(INVALID_SPAN)

    @property
    def headers(self) -> Headers:
        """The headers with which other processes continue below this span."""
        return _headers_of(self.recorded)

    @property
    def is_own(self) -> bool:
        """Whether it was created here, instead of only representing its parent."""
        context = self.recorded.get_span_context()
        return context.is_valid and not context.is_remote

    def set(self, **attributes: str | int | float | bool) -> None:
        """Add attributes; each name is prefixed with `runtime.`."""
        if not self.recorded.is_recording():
            return
        for name, value in attributes.items():
            self.recorded.set_attribute(f"runtime.{name}", value)

    def failed(self, error: BaseException | str) -> None:
        """Mark it as failed, with a reason: an error's type, or a fixed word."""
        if not self.recorded.is_recording():
            return
        kind = error if isinstance(error, str) else type(error).__name__
        self.recorded.set_attribute("error.type", kind)
        self.recorded.set_status(Status(StatusCode.ERROR, kind))

    def end(self, outcome: str = "") -> None:
        """End it. A second call changes nothing."""
        if not self.recorded.is_recording():
            return
        if outcome:
            self.recorded.set_attribute(OUTCOME, outcome)
        self.recorded.end()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make it the current span of the block."""
        token = attach(trace.set_span_in_context(self.recorded))
        try:
            yield
        finally:
            detach(token)


def begin(
    name: str,
    *,
    parent: Headers | None = None,
    links: Sequence[Headers] = (),
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> OpenSpan:
    """Start a span without making it the current one.

    Args:
        name: from a small fixed set; ids are attributes.
        parent: headers of the parent: None for the current span; without a trace in them a new trace begins.
        links: other spans that led to it. In a process that does not export, the first one replaces a new trace.
    """
    around = None if parent is None else _PROPAGATOR.extract(parent, _NOWHERE)
    led_by = [context for headers in links if (context := _context_of(headers)).is_valid]
    made = _tracer.start_span(name, around, kind, attributes, [Link(context) for context in led_by])
    if led_by and not made.get_span_context().is_valid:
        made = NonRecordingSpan(led_by[0])
    return OpenSpan(made)


@contextmanager
def span(
    name: str,
    *,
    parent: Headers | None = None,
    links: Sequence[Headers] = (),
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Iterator[OpenSpan]:
    """Run the block in a span, with the arguments of :func:`begin`; tasks that it starts belong to it too."""
    made = begin(name, parent=parent, links=links, kind=kind, attributes=attributes)
    try:
        with made.entered():
            yield made
    except asyncio.CancelledError:
        made.recorded.set_attribute(OUTCOME, "cancelled")
        raise
    except Exception as error:
        made.failed(error)
        raise
    finally:
        made.end()


@contextmanager
def outside() -> Iterator[None]:
    """Run the block outside of any span: for work that outlives the current span."""
    with OpenSpan.nothing().entered():
        yield


def current() -> OpenSpan:
    """Return the current span, to add attributes; always a span, perhaps without effect."""
    return OpenSpan(trace.get_current_span())


def trace_headers() -> Headers:
    """Return the headers to continue below the current span; empty without one."""
    return _headers_of(trace.get_current_span())


def traceparent() -> str | None:
    """Return the current span as one value; None without one."""
    return trace_headers().get("traceparent")


def trace_id() -> str | None:
    """Return the current trace's id, 32 hexadecimal digits; None without one."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def add_trace_ids(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids of the current span and trace to log lines. A processor of structlog."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def trace_of(headers: Mapping[str, str]) -> Headers:
    """Return the trace headers of a message, with names in any case; empty when it has none."""
    found = {name.lower(): value for name, value in headers.items() if name.lower() in _TRACE_HEADERS}
    return found if "traceparent" in found else {}


def _context_of(headers: Headers) -> SpanContext:
    return trace.get_current_span(_PROPAGATOR.extract(headers, _NOWHERE)).get_span_context()


def _headers_of(recorded: Span) -> Headers:
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, trace.set_span_in_context(recorded, _NOWHERE))
    return headers
