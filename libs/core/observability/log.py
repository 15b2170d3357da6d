"""Log lines on standard error, one per event: JSON for machines, coloured text for people at a terminal.

A line is a constant message with fields. The context of a task (segment, entity, run, trace) is bound once and
appears in each of its lines; service, role and worker appear in all. Configs of bots are never logged, so neither
are the local variables of a traceback nor the debug lines of the database driver.
"""

import logging
import math
import sys
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from libs.core.config.process_settings import LogSettings

Logger = structlog.stdlib.BoundLogger

_OURS = ("libs", "services", "tools", "__main__")
_FIRST = ("ts", "level", "event")

# For lines before configure() is called: by default structlog shows the values of variables in tracebacks.
structlog.configure(
    processors=[
        merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def get_logger(name: str) -> Logger:
    """Return the logger of a module; it may be created before :func:`configure` is called."""
    return structlog.stdlib.get_logger(name)


def bound_context(**fields: object) -> AbstractContextManager[None]:
    """Add *fields* to every line of the block, and of tasks that it starts."""
    return bound_contextvars(**fields)


def configure(
    settings: LogSettings,
    *,
    stream: TextIO | None = None,
    processors: tuple[Processor, ...] = (),
    **fields: str,
) -> None:
    """Send the lines of this process, and those of its libraries, to *stream* (None: standard error).

    Call it first in main; a second call replaces the first.

    Args:
        processors: called for each line, to add fields that change from line to line.
        fields: added to every line, also in threads: service, role, worker.
    """
    stream = stream if stream is not None else sys.stderr
    for_people = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        merge_contextvars,
        _Fixed(fields),
        *processors,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Not cached, so that loggers made by modules at import follow a later configuration.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    rendering = _console(colors=stream.isatty()) if for_people else _json()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    _route(handler, settings.level.upper())


def _route(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for earlier in list(root.handlers):
        if isinstance(earlier.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(earlier)
    root.addHandler(handler)
    # Warnings of libraries only. The debug lines of the MongoDB driver contain whole documents.
    root.setLevel(logging.INFO if level == "DEBUG" else max(logging.WARNING, logging.getLevelName(level)))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def _json() -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=50)
        ),
        _ordered,
        # ASCII only: some readers treat certain other characters as line ends.
        structlog.processors.JSONRenderer(),
    ]


def _console(*, colors: bool) -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False, key="timestamp"),
        _harmless,
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=36
        ),
    ]


class _Fixed:
    """Adds fields that are constant for the process."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**self._fields, **event}


def _ordered(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put time, level and message first; replace numbers that JSON lacks."""
    rest = {name: value for name, value in event.items() if name not in _FIRST}
    ordered: dict[str, Any] = {name: event.get(name) for name in _FIRST} | rest
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in ordered.items()
    }


def _harmless(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace control characters: an id or a message from outside could alter the terminal or fake a line."""
    return {
        name: _escaped(value, name == "exception") if isinstance(value, str) else value for name, value in event.items()
    }


def _escaped(text: str, may_have_lines: bool) -> str:
    if text.isprintable():
        return text
    kept = "\n" if may_have_lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)
