import asyncio
import os
import subprocess
import sys
from collections.abc import MutableMapping
from typing import Any

import pytest

from libs.core.master import role as master_role
from libs.core.observability.tracing import (
    add_trace_ids,
    begin,
    outside,
    span,
    trace_headers,
    trace_id,
    traceparent,
)
from libs.core.worker import role as worker_role

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
PRODUCER = {"traceparent": PARENT, "tracestate": "vendor=abc"}


def ids_on_a_line() -> MutableMapping[str, Any]:
    return add_trace_ids(None, "info", {"event": "x"})


def test_the_producers_trace_is_handed_on_as_it_came_while_nothing_is_exported() -> None:
    with span("work", parent=PRODUCER), span("a part of it"):
        assert trace_headers() == PRODUCER
        assert traceparent() == PARENT
        assert trace_id() == TRACE


def test_a_line_inside_a_span_carries_its_ids_and_one_outside_none() -> None:
    with span("work", parent=PRODUCER):
        assert ids_on_a_line() == {"event": "x", "trace_id": TRACE, "span_id": "00f067aa0ba902b7"}
    assert ids_on_a_line() == {"event": "x"}


@pytest.mark.parametrize("headers", [{}, {"traceparent": "00-a-b-01"}, {"traceparent": "", "tracestate": "x=1"}])
def test_without_a_producers_trace_there_is_none_whatever_went_on_around(headers: dict[str, str]) -> None:
    with span("the one before", parent=PRODUCER), span("work", parent=headers):
        assert (trace_headers(), traceparent(), trace_id()) == ({}, None, None)


def test_link_replaces_span_without_export() -> None:
    with span("a firing", parent={}, links=[{}, PRODUCER]):
        assert traceparent() == PARENT


def test_a_task_belongs_to_the_span_in_which_it_was_begun_unless_it_was_begun_outside() -> None:
    async def begun_within() -> tuple[str | None, str | None]:
        with span("work", parent=PRODUCER):
            inside = asyncio.create_task(asyncio.to_thread(trace_id))
            with outside():
                apart = asyncio.create_task(asyncio.to_thread(trace_id))
        return await inside, await apart

    assert asyncio.run(begun_within()) == (TRACE, None)


def test_placeholder_of_remote_span_is_not_ended() -> None:
    made = begin("work", parent=PRODUCER)

    assert not made.is_own
    assert made.headers == PRODUCER
    made.end("applied")


def test_worker_and_master_do_not_import_exporter() -> None:
    imports = (
        f"import sys, {worker_role.__name__}, {master_role.__name__}\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.instrumentation', 'wrapt')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    found = subprocess.run([sys.executable, "-c", imports], env=environment, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
