import asyncio
import time

import pytest

from libs.core.observability.metrics import LOOP_LAG_SECONDS, Declared, measure_loop_lag, observe, record, registry


def counted(system: str, outcome: str) -> float:
    labels = {"system": system, "operation": "get", "outcome": outcome}
    return registry.get_sample_value("runtime_operation_seconds_count", labels) or 0.0


def test_an_operation_that_works_is_counted_as_ok() -> None:
    with observe("test-ok", "get"):
        pass

    assert counted("test-ok", "ok") == 1


def test_an_operation_that_raises_is_counted_as_an_error() -> None:
    with pytest.raises(KeyError), observe("test-error", "get"):
        raise KeyError("x")

    assert (counted("test-error", "error"), counted("test-error", "ok")) == (1, 0)


def test_an_operation_that_is_given_up_is_no_error() -> None:
    with pytest.raises(asyncio.CancelledError), observe("test-cancelled", "get"):
        raise asyncio.CancelledError

    assert (counted("test-cancelled", "cancelled"), counted("test-cancelled", "error")) == (1, 0)


def test_refusal_is_not_counted_as_error() -> None:
    with pytest.raises(KeyError), observe("test-refused", "get", refused=lambda error: isinstance(error, KeyError)):
        raise KeyError("x")

    assert (counted("test-refused", "refused"), counted("test-refused", "error")) == (1, 0)


def test_a_declared_metric_without_a_value_is_shown_by_name_alone() -> None:
    declared = Declared("runtime_test_bytes", "gauge", "For the test.", ("state",))

    assert list(declared.of(None).samples) == []
    assert list(declared.of({}).samples) == []
    [sample] = declared.of({("on",): 2}).samples
    assert (sample.name, sample.labels, sample.value) == ("runtime_test_bytes", {"state": "on"}, 2)


def test_a_declared_counter_is_shown_under_its_own_name() -> None:
    [sample] = Declared("runtime_test_total", "counter", "For the test.").of(3).samples

    assert (sample.name, sample.value) == ("runtime_test_total", 3)


def test_durations_are_in_seconds() -> None:
    record("test-seconds", "get", "ok", 0.25)

    labels = {"system": "test-seconds", "operation": "get", "outcome": "ok"}
    assert registry.get_sample_value("runtime_operation_seconds_sum", labels) == 0.25


async def test_a_blocked_loop_shows_as_lag() -> None:
    LOOP_LAG_SECONDS.set(0)
    measuring = asyncio.create_task(measure_loop_lag(interval_seconds=0.02, samples=1))
    await asyncio.sleep(0)

    time.sleep(0.06)  # noqa: ASYNC251 - blocking the loop is what is tested
    await asyncio.sleep(0.01)
    measuring.cancel()

    assert (registry.get_sample_value("runtime_event_loop_lag_seconds") or 0) > 0.03


def test_memory_and_processor_of_the_process_are_there() -> None:
    assert (registry.get_sample_value("process_resident_memory_bytes") or 0) > 1_000_000
    assert (registry.get_sample_value("process_cpu_seconds_total") or 0) > 0
