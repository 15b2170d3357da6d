"""The templates, with what strangers may have chosen in every place where it can stand."""

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from libs.core.api.answers import EntityPage, RunPage, RunView, SegmentPage, WorkerPage
from libs.core.bot_metrics import EntityMetrics, MetricPoint, MetricView
from libs.core.master.page.rendering import asset, description, render
from libs.core.master.status import MasterSnapshot, SegmentState, SegmentStatus, WorkerRole, WorkerStatus
from libs.core.room import Demand, Need, Room
from libs.core.store.entity_views import EntityView, HoldView

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }}"

RUN = RunView(
    run_id=EVIL,
    entity_id=EVIL,
    segment=1,
    worker=EVIL,
    host=EVIL,
    epoch=1,
    started_at=NOW,
    ended_at=NOW,
    seconds=1.5,
    reason=EVIL,
    failed=True,
    message="",
    failure=EVIL,
    error_type=EVIL,
    error_message=EVIL,
    hint=EVIL,
    exit_code=1,
    oom_killed=False,
    last_lines=(EVIL, "y" * 100_000),
    peak_memory_bytes=50_000_000,
    cpu_seconds=0.1,
    presumed=False,
    revision=1,
    container_id=EVIL,
    code_digest=EVIL,
    image_digest=EVIL,
    scheduled_at=NOW,
    cause=EVIL,
    attempt=1,
    trace_id=EVIL,
)
ENTITY = EntityView(
    id=EVIL,
    segment=1,
    enabled=True,
    hold=HoldView(EVIL, NOW, EVIL, EVIL),
    state=EVIL,
    since=NOW,
    detail=EVIL,
    worker=EVIL,
    restarts=3,
    run_id=EVIL,
    version=EVIL,
    runtime=EVIL,
    updated_at=EVIL,
    next_execution_time=NOW.timestamp(),
    revision=1,
)
METRICS = EntityMetrics(EVIL, [MetricView(EVIL, EVIL, 5.5, NOW, {EVIL: EVIL}, [MetricPoint(NOW, 5.5)])], True)
ROOM = Room(Need(8, 2.0), Need(4, 1.0), Need(1))
WORKER = WorkerStatus(
    EVIL,
    EVIL,
    EVIL,
    EVIL,
    EVIL,
    8080,
    WorkerRole.OWNING,
    [1],
    {"1": Demand(Need(1))},
    [1],
    {"2": EVIL},
    3,
    EVIL,
    False,
    ROOM,
    0.1,
    60.0,
    cordoned=True,
    cordon_reason=EVIL,
)
SEGMENT = SegmentStatus(1, 3, SegmentState.OWNED, EVIL, 1)
KNOWN = MasterSnapshot(EVIL, False, EVIL, 1, 0.1, EVIL, [EVIL], 16, [SEGMENT], [WORKER])
FRAME: dict[str, Any] = {
    "service": "bot-scheduler",
    "noun": "schedule",
    "nouns": "schedules",
    "known": KNOWN,
    "here": "/",
    "pages": [("/", "Overview")],
    "query": {"prefix": EVIL, "state": EVIL, "segment": EVIL, "entity": EVIL, "after": EVIL},
    "now": NOW,
}
PAGES: dict[str, dict[str, Any]] = {
    "overview.html": {
        "leader_url": "http://leader:8080",
        "problem": EVIL,
        "waiting": 2,
        "entities": {EVIL: 3},
        "ended": {"finished": 3, "failed": 1},
        "workers": None,
        "segments": {"waiting": 2},
        "failures": [(RUN, 7)],
        "recent": [RUN],
    },
    "entities.html": {"page": EntityPage([ENTITY], EVIL), "states": [EVIL]},
    "entity.html": {"id": EVIL, "entity": ENTITY, "updated": None, "runs": [RUN], "metrics": METRICS},
    "runs.html": {"page": RunPage([RUN], NOW)},
    "workers.html": {"page": WorkerPage([WORKER], 1, EVIL)},
    "segments.html": {"page": SegmentPage([SEGMENT], 1, 5)},
    "problem.html": {"title": "Not now", "reason": EVIL, "try_again": True, "leader_url": None},
}


class Seen(HTMLParser):
    """A page as a browser takes it: its tags, its attributes, and what can be read."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("template", PAGES)
def test_untrusted_values_are_escaped_in_page(template: str) -> None:
    page = render(template, {**FRAME, **PAGES[template]})

    seen = Seen(page)
    assert seen.tags["script"] == 1
    assert not seen.tags.keys() & {"iframe", "object", "embed", "style", "base"}
    assert seen.tags["svg"] == (template == "entity.html")
    assert {value for name, value in seen.attributes if name == "src"} == {"/page/icon.svg", "/page/status.js"}
    links = [value for name, value in seen.attributes if name in ("href", "action")]
    assert all(link.startswith(("/", "#content", "http://leader:8080")) for link in links), links
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "style"]
    assert "\u202e" not in seen.text
    assert "{{ 7 * 7 }}" in seen.text
    assert len(page) < 30_000


def test_an_entity_that_is_gone_is_shown_by_what_is_left_of_it() -> None:
    gone = {"id": "b1", "entity": None, "updated": None, "runs": [RUN], "metrics": None}
    page = render("entity.html", {**FRAME, **gone})

    assert "This schedule does not exist any more" in page
    assert "Metrics" not in page


def test_metrics_are_shown_with_their_last_hour() -> None:
    points = [MetricPoint(NOW + timedelta(minutes=minute), value) for minute, value in enumerate([1.0, 12_345.678, -3])]
    pnl = MetricView("pnl", "pnl", -3, NOW, {"symbol": "BTC-USD"}, points)
    signal = MetricView("signal", "signal", None, NOW, {"side": "long"}, [])
    metrics = EntityMetrics("b1", [pnl, signal])
    page = render(
        "entity.html", {**FRAME, "id": "b1", "entity": ENTITY, "updated": None, "runs": [], "metrics": metrics}
    )

    assert 'aria-label="3 values from -3 to 12,345.678"' in page
    assert page.count("<polyline points=") == 1
    assert "symbol: BTC-USD" in page
    assert "left out" not in page


@pytest.mark.parametrize("name", ["status.css", "status.js", "icon.svg", "layout.html"])
def test_page_fetches_only_own_resources(name: str) -> None:
    text = asset(name).decode().replace("http://www.w3.org/2000/svg", "")

    assert not re.findall(r"https?://|url\(|@import|\beval\b|innerHTML", text)


@pytest.mark.parametrize(
    ("message", "lines", "expected"),
    [
        ("it was killed", ("a",), "it was killed"),
        ("", ("Traceback", '{"status": "error", "message": "no funds"}'), "no funds"),
        ("", ("{not json",), "{not json"),
        ("", ('{"message": 7}',), '{"message": 7}'),
        ("", (), ""),
        ("", ("bought 3", '{"plots": "' + 500 * "x"), "bought 3"),
        ("", ("[" + 500 * "1,",), "returned a result"),
    ],
)
def test_run_shows_most_specific_description(message: str, lines: tuple[str, ...], expected: str) -> None:
    assert description(replace(RUN, message=message, last_lines=lines)) == expected
