"""Render templates as pages. The template engine is imported with the first page, so that a master without visitors
does not load it.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from libs.core import sparkline
from libs.core.api.answers import FAILURES, RunView
from libs.core.hostile_json import Bounds, Parsed, parse
from libs.core.master.page import files as folder
from libs.core.master.page.visible import age, ago, clock, duration, shortened, size, visible

if TYPE_CHECKING:
    from jinja2 import Environment

_GOOD = {"running", "owning", "owned", "finished", "completing"}
_BAD = {"backing-off", "failed", "retrying", "unknown", *FAILURES} - {"killed"}
# Written by a bot.
_LINE_BOUNDS = Bounds(bytes=64 * 1024, depth=16, values=1000)
_MOST_OF_A_RESULT = 200
_BUSY = {"starting", "assigned", "draining", "held", "killed", "queued"}


def asset(name: str) -> bytes:
    """Return a static file of the page."""
    return files(folder).joinpath(name).read_bytes()


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render *template* with *values*, all of which are escaped.

    Raises:
        UndefinedError: the template uses an unknown value.
    """
    now: datetime = values.get("now") or datetime.now(UTC)
    functions: dict[str, Any] = {"now": now, "first_page": _first_page, "next_page": _next_page}
    return _environment().get_template(template).render({**functions, **values})


def tone(state: str) -> str:
    """Return the style of a state: good, bad, busy, or neutral."""
    for name, states in (("good", _GOOD), ("bad", _BAD), ("busy", _BUSY)):
        if state in states:
            return name
    return "idle"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: asset(name).decode()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "age": age,
        "ago": ago,
        "clock": clock,
        "digest": _digest,
        "duration": duration,
        "encoded": lambda text: quote(str(text), safe=""),
        "iso": _iso,
        "description": description,
        "shortened": shortened,
        "sparkline": lambda metric: sparkline.line(metric, 118, 22),
        "size": size,
        "tone": tone,
        "quantity": lambda number: f"{number:,.10g}",
        "visible": visible,
    }
    environment.filters.update(filters)
    return environment


def _iso(moment: datetime | float) -> str:
    return (moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)).isoformat()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def description(run: RunView) -> str:
    """Return the best description of a run: the message of its record, of its result, or the last line of its output.

    A long result is no description: the line before it is used.
    """
    last = run.last_lines[-1] if run.last_lines else ""
    if not run.message and last.startswith(("{", "[")):
        parsed = parse(last.encode("utf-8", "replace"), _LINE_BOUNDS)
        result = parsed.value if isinstance(parsed, Parsed) else None
        message = result.get("message") if isinstance(result, dict) else None
        if isinstance(message, str) and message:
            return message
        if len(last) > _MOST_OF_A_RESULT:
            return run.last_lines[-2] if len(run.last_lines) > 1 else "returned a result"
    return run.message or last


def _first_page(path: str, query: Mapping[str, str]) -> str:
    return _with(path, {name: value for name, value in query.items() if name not in ("after", "before")})


def _next_page(path: str, query: Mapping[str, str], following: object) -> str:
    name = "before" if isinstance(following, datetime) else "after"
    value = following.isoformat() if isinstance(following, datetime) else str(following)
    return _with(path, {**query, name: value})


def _with(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
