import asyncio
import io
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from libs.core.config.process_settings import LogSettings
from libs.core.observability.log import bound_context, configure, get_logger

log = get_logger("libs.core.observability.log_test")

FIELDS = {"service": "bot-runner", "role": "worker", "worker": "w1"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Lines(io.StringIO):
    """What was logged, as JSON."""

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.all[-1]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configuration = list(root.handlers), root.level, structlog.get_config()
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("libs", "services", "tools", "__main__"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.contextvars.clear_contextvars()
    structlog.configure(**configuration)


@pytest.fixture
def lines() -> Lines:
    stream = Lines()
    configure(LogSettings(), stream=stream, service="bot-runner", role="worker", worker="w1")
    return stream


def test_a_traceback_before_the_configuration_shows_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    value = "".join(["se", "cret"])
    try:
        raise ValueError(len(value))
    except ValueError:
        log.exception("failed")

    printed = capsys.readouterr().out
    assert "ValueError: 6" in printed
    assert "secret" not in printed


def test_a_line_is_one_json_object_with_time_level_and_event_first(lines: Lines) -> None:
    log.warning("lease lost", segment=7, entity="a\nb\u2028c")

    assert list(lines.last)[:3] == ["ts", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", lines.last["ts"])
    assert (
        lines.last.items() >= {"level": "warning", "event": "lease lost", "segment": 7, "entity": "a\nb\u2028c"}.items()
    )
    assert lines.getvalue().count("\n") == 1


def test_fields_of_the_process_are_on_every_line_in_threads_too(lines: Lines) -> None:
    thread = threading.Thread(target=lambda: log.info("from a thread"))
    thread.start()
    thread.join()

    assert lines.last.items() >= FIELDS.items()


async def test_bound_fields_reach_the_tasks_below_and_not_those_beside(lines: Lines) -> None:
    async def segment(number: int) -> None:
        with bound_context(segment=number):
            await asyncio.create_task(bot())

    async def bot() -> None:
        log.info("started")

    async with asyncio.TaskGroup() as group:
        group.create_task(segment(1))
        group.create_task(segment(2))
    log.info("outside")

    assert [line.get("segment") for line in lines.all] == [1, 2, None]


def test_fields_bound_to_a_block_end_with_it(lines: Lines) -> None:
    with bound_context(entity="b1"):
        log.info("inside")
    log.info("outside")

    assert [line.get("entity") for line in lines.all] == ["b1", None]


def test_lines_of_libraries_come_the_same_way(lines: Lines) -> None:
    logging.getLogger("nats").warning("reconnecting to %s", "a", extra={"attempt": 3})

    assert lines.last.items() >= {"event": "reconnecting to a", "logger": "nats", "attempt": 3, **FIELDS}.items()


def test_warnings_come_the_same_way(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in lines.last["event"]


def test_debug_lines_of_libraries_never_come() -> None:
    stream = Lines()
    configure(LogSettings(level="debug"), stream=stream)
    logging.getLogger("pymongo.command").debug("a whole document with an API key")
    log.debug("ours")

    assert [line["event"] for line in stream.all] == ["ours"]


def test_lines_below_the_level_do_not_come(lines: Lines) -> None:
    log.debug("detail")
    logging.getLogger("urllib3").info("retry")

    assert lines.all == []


def test_exception_is_structured_without_variables(lines: Lines) -> None:
    api_key = "geheim"
    try:
        raise ValueError(len(api_key))
    except ValueError:
        log.exception("failed")

    (entry,) = lines.last["exception"]
    assert (entry["exc_type"], entry["frames"][-1]["name"]) == (
        "ValueError",
        "test_exception_is_structured_without_variables",
    )
    assert "geheim" not in lines.getvalue()


def test_secrets_stay_secret_and_odd_numbers_stay_json(lines: Lines) -> None:
    log.info("odd", key=SecretStr("geheim"), ratio=float("nan"))

    assert "geheim" not in lines.getvalue()
    assert lines.last["ratio"] == "nan"


def test_processors_add_what_changes_from_line_to_line() -> None:
    stream = Lines()
    configure(LogSettings(), stream=stream, processors=(lambda _, __, event: {**event, "trace_id": "abc"},))
    log.info("traced")

    assert stream.last["trace_id"] == "abc"


def test_a_second_configuration_replaces_the_first(lines: Lines) -> None:
    second = Lines()
    configure(LogSettings(), stream=second)
    log.info("once")

    assert (len(lines.all), len(second.all)) == (0, 1)


def test_people_at_a_terminal_get_coloured_lines() -> None:
    stream = Terminal()
    configure(LogSettings(), stream=stream)
    log.info("hello", entity="b1")

    assert "\x1b[" in stream.getvalue()
    assert "hello" in stream.getvalue()


def test_console_lines_in_a_pipe_have_no_colours() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="console"), stream=stream)
    log.info("hello", entity="b1")

    assert re.search(
        r"^\S+ \[info *\] hello +\[libs.core.observability.log_test\] entity=b1$", stream.getvalue(), re.MULTILINE
    )


def test_an_id_from_outside_cannot_draw_over_the_terminal_or_fake_a_line() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="console"), stream=stream)
    log.info("hello", entity="b1\n12:00 [info] all bots stopped\x1b[2J")

    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
