"""Traces: what became of one event, over all processes that had to do with it.

A trace begins with the producer's headers (W3C `traceparent` and `tracestate`), or here when there were none. It is
handed on in what the processes leave each other anyway: the entity's document, the headers of events, an assignment,
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
"""`traceparent` and perhaps `tracestate`, the names in lower case; empty for no trace. What is malformed is ignored."""

Attributes = Mapping[str, str | int | float | bool]

OUTCOME = "runtime.outcome"

_TRACE_HEADERS = ("traceparent", "tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()
_NOWHERE = Context()
_tracer = trace.get_tracer("the0.runtime")


@dataclass(frozen=True, slots=True)
class OpenSpan:
    """A span that somebody has to :meth:`end`; for what is begun in one place and ended in another."""

    recorded: Span

    @classmethod
    def nothing(cls) -> "OpenSpan":
        """Stands for no span."""
        return cls(INVALID_SPAN)

    @property
    def headers(self) -> Headers:
        """What to hand on so that others continue below this span."""
        return _headers_of(self.recorded)

    @property
    def is_own(self) -> bool:
        """Whether it was made here, and does not only stand for the one that it is under."""
        context = self.recorded.get_span_context()
        return context.is_valid and not context.is_remote

    def set(self, **attributes: str | int | float | bool) -> None:
        """Tell more: each name is an attribute's, below `runtime.`."""
        if not self.recorded.is_recording():
            return
        for name, value in attributes.items():
            self.recorded.set_attribute(f"runtime.{name}", value)

    def failed(self, error: BaseException | str) -> None:
        """It did not come to a good end, for this kind of reason: an error's type, or a word of ours."""
        if not self.recorded.is_recording():
            return
        kind = error if isinstance(error, str) else type(error).__name__
        self.recorded.set_attribute("error.type", kind)
        self.recorded.set_status(Status(StatusCode.ERROR, kind))

    def end(self, outcome: str = "") -> None:
        """It is over. A second call changes nothing."""
        if not self.recorded.is_recording():
            return
        if outcome:
            self.recorded.set_attribute(OUTCOME, outcome)
        self.recorded.end()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make it the span that the block works for."""
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
    """Begin a span, which is not made the current one.

    Args:
        name: one of few; ids are attributes.
        parent: where it hangs: None below the current span; without a trace in it, a new trace begins.
        links: other spans that led to it. A process that does not export lets the first one stand for a new trace.
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
    """Let the block be a span, with the arguments of :func:`begin`; tasks that it starts belong to it too."""
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
    """Let the block belong to no span: for what goes on when the span that it is begun in has long ended."""
    with OpenSpan.nothing().entered():
        yield


def current() -> OpenSpan:
    """The current span, to tell more of it; there is always one, which may stand for nothing."""
    return OpenSpan(trace.get_current_span())


def trace_headers() -> Headers:
    """What to hand on so that others continue below the current span; empty when there is none."""
    return _headers_of(trace.get_current_span())


def traceparent() -> str | None:
    """The current span, for those who have room for one value only; None when there is none."""
    return trace_headers().get("traceparent")


def trace_id() -> str | None:
    """The current trace's id, 32 hexadecimal digits; None outside of any."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def add_trace_ids(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of log lines: a line inside a span carries the ids of both."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def trace_of(headers: Mapping[str, str]) -> Headers:
    """The trace headers among those of a message, whatever the case of their names; empty when it has none."""
    found = {name.lower(): value for name, value in headers.items() if name.lower() in _TRACE_HEADERS}
    return found if "traceparent" in found else {}


def _context_of(headers: Headers) -> SpanContext:
    return trace.get_current_span(_PROPAGATOR.extract(headers, _NOWHERE)).get_span_context()


def _headers_of(recorded: Span) -> Headers:
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, trace.set_span_in_context(recorded, _NOWHERE))
    return headers
