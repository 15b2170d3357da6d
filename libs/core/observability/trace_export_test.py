import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

from libs.core.config.process_settings import TracingSettings
from libs.core.config.settings_loader import SettingsError, load
from libs.core.observability.trace_export import CalmExporter, HeadersOfAFile, WithinSpans
from libs.core.transport.watched_files import WatchedFiles

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


@pytest.mark.parametrize(
    ("environ", "exporting"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        (COLLECTOR, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        (COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (COLLECTOR | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        (COLLECTOR | {"OTEL_SDK_DISABLED": "no"}, True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, False),
        (COLLECTOR | {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, False),
    ],
)
def test_traces_are_exported_where_the_standard_variables_ask_for_it(
    environ: Mapping[str, str], exporting: bool
) -> None:
    assert load(TracingSettings, environ=environ).exporting is exporting


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
def test_unknown_exporter_is_error_that_names_known_ones(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{value}.*(set grpc|set otlp)"):
        load(TracingSettings, environ={**COLLECTOR, variable: value})


def test_the_endpoint_of_traces_comes_before_that_of_all_signals() -> None:
    both = COLLECTOR | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4317"}
    assert load(TracingSettings, environ=both).endpoint == "http://traces:4317"


def test_calls_of_other_systems_are_recorded_within_something_only() -> None:
    provider = TracerProvider(sampler=WithinSpans(DEFAULT_ON), shutdown_on_exit=False)
    exported = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("test")

    tracer.start_span("a heartbeat", kind=SpanKind.CLIENT).end()
    with trace.use_span(tracer.start_span("a start"), end_on_exit=True):
        tracer.start_span("its write", kind=SpanKind.CLIENT).end()

    assert [span.name for span in exported.get_finished_spans()] == ["its write", "a start"]


def test_the_sampler_that_is_set_decides_about_all_others() -> None:
    provider = TracerProvider(sampler=WithinSpans(ALWAYS_OFF), shutdown_on_exit=False)
    assert not provider.get_tracer("test").start_span("a start").is_recording()


class Collector(SpanExporter):
    """One that is there or not."""

    def __init__(self) -> None:
        self.there = False
        self.broken = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.broken:
            raise ValueError("a bug")
        if self.there:
            return SpanExportResult.SUCCESS
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error("Failed: nobody there")
        return SpanExportResult.FAILURE


def test_a_collector_that_is_away_costs_one_line_and_one_more_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector = Collector()
    exporter = CalmExporter(collector, "http://collector:4317")
    span = ReadableSpan("lost")

    with capture_logs() as lines:
        for there in (False, False, False, True, True):
            collector.there = there
            exporter.export([span, span])

    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("traces cannot be exported; spans are lost", "warning"),
        ("traces are exported again", "info"),
    ]
    assert lines[0]["reason"] == "Failed: nobody there"
    assert lines[1]["lost_spans"] == 6
    assert caplog.records == []


def test_an_exporter_that_raises_is_one_that_is_away() -> None:
    collector = Collector()
    collector.broken = True

    with capture_logs() as lines:
        assert CalmExporter(collector, "").export([ReadableSpan("lost")]) is SpanExportResult.FAILURE

    assert [line["reason"] for line in lines] == ["ValueError: a bug"]


class Sender(InMemorySpanExporter):
    """An exporter that remembers its headers."""

    def __init__(self, headers: str) -> None:
        super().__init__()
        self.headers = headers
        self.is_shut = False

    def shutdown(self) -> None:
        self.is_shut = True


def test_replaced_headers_are_those_of_the_next_export(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization=Bearer first")
    senders: list[Sender] = []

    def make(headers: str) -> Sender:
        senders.append(Sender(headers))
        return senders[-1]

    exporter = HeadersOfAFile(WatchedFiles([("HEADERS", file)], lambda contents: contents[0].decode()), make)
    exporter.export([])
    exporter.export([])
    file.write_text("authorization=Bearer the second")
    exporter.export([])
    exporter.shutdown()

    assert [(one.headers, one.is_shut) for one in senders] == [
        ("authorization=Bearer first", True),
        ("authorization=Bearer the second", True),
    ]


def test_headers_come_from_a_file_unless_a_variable_has_them_or_the_file_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "otlp-headers"
    environ = COLLECTOR | {"OTEL_EXPORTER_OTLP_HEADERS_FILE": str(file)}
    without = load(TracingSettings, environ=environ).headers
    file.write_text("authorization=Bearer file\n")
    by_file = load(TracingSettings, environ=environ)
    by_variable = load(TracingSettings, environ=environ | {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer own"})

    assert without is None
    assert by_file.headers is not None
    assert by_variable.headers is not None
    assert (by_file.headers.get_secret_value(), by_file.headers_file) == ("authorization=Bearer file", str(file))
    assert (by_variable.headers.get_secret_value(), by_variable.headers_file) == ("authorization=Bearer own", None)
