"""A trace collector with the interface that processes use (OTLP over gRPC), and a view of the received spans."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class SeenSpan:
    """A span as it was exported; ids in hexadecimal digits."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    links: Sequence[str]
    failed: bool


@dataclass
class TraceCollector(pb_grpc.TraceServiceServicer):
    """Made by :func:`trace_collector`."""

    spans: list[SeenSpan] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    """All received bytes, for checks that secrets are absent."""
    port: int = 0

    @property
    def settings(self) -> dict[str, str]:
        """The settings that make a process send its traces here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_BSP_SCHEDULE_DELAY": "200"}

    async def Export(  # noqa: N802 - the protocol's name
        self, request: pb.ExportTraceServiceRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> pb.ExportTraceServiceResponse:
        """Receive spans."""
        self.received += request.SerializeToString()
        for resource_spans in request.resource_spans:
            resource = _values(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_seen(span, resource) for span in scope_spans.spans]
        return pb.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[SeenSpan]:
        """Return the spans of one trace so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def named(self, trace_id: str, name: str) -> SeenSpan | None:
        """Return the only span of that name in a trace; None before it arrives."""
        found = [span for span in self.trace(trace_id) if span.name == name]
        if len(found) > 1:
            raise AssertionError(f"{len(found)} spans are called {name!r}")
        return found[0] if found else None

    def has(self, trace_id: str, *names: str) -> bool:
        """Whether spans of all these names have arrived."""
        return {span.name for span in self.trace(trace_id)} >= set(names)

    def way_to(self, trace_id: str, name: str) -> list[str]:
        """Return the names of the spans from the runtime's first one down to the span *name*, after its parent's id."""
        by_id = {span.span_id: span for span in self.trace(trace_id)}
        at, way = self.named(trace_id, name), list[str]()
        while at is not None:
            way.append(at.name)
            above, at = at.parent_id, by_id.get(at.parent_id)
            if at is None:
                way.append(above)
        return way[::-1]


def _seen(span: Span, resource: Mapping[str, Any]) -> SeenSpan:
    return SeenSpan(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        resource=resource,
        links=[link.trace_id.hex() for link in span.links],
        failed=bool(span.status.code == 2),
    )


def _values(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value") or "string_value") for a in attributes}


@asynccontextmanager
async def trace_collector(port: int = 0) -> AsyncIterator[TraceCollector]:
    """A collector on *port* of this machine, or on a free one."""
    collector = TraceCollector()
    server = grpc.aio.server()
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0.5)
