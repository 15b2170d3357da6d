"""Every query of every dashboard and rule, on a Prometheus that scrapes real processes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from tests.monitoring.observed import Observed, observed
from tests.monitoring.promql import selectors
from tests.monitoring.questions import RARITIES, choices, dashboards, questions, to_be_found
from tests.monitoring.rules import rules
from tests.support.eventually import eventually
from tests.support.servers.prometheus import PrometheusServer
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(500)

# Those of a machine that has other things to do.
_OF_A_BUSY_MACHINE = (
    "EventLoopLag|LeaseLapsed|WorkerLost|RunsLost|SchedulesLate|SchedulesMissed|EventsLate|HandlerFailing|NatsReconnecting"
    "|ProcessMemoryHigh|.*Slow|.*Failing"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Observed]:
    """The services, their load and Prometheus, shared by the tests of this file."""
    async with observed(tmp_path_factory.mktemp("monitoring"), docker_engine) as made:
        yield made


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
async def test_every_choice_of_a_dashboard_has_values(seen: Observed, path: Path) -> None:
    async def without_values() -> list[str]:
        return [str(c) for c in choices(path) if not await seen.prometheus.label_values(c.label, c.selector)]

    assert await left_over(without_values) == []


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
async def test_every_query_of_a_dashboard_has_an_answer(seen: Observed, path: Path) -> None:
    chosen = {"service": ".+", "instance": ".+", "bot": seen.bot}

    async def unanswered() -> list[str]:
        asked = questions(path, chosen)
        return [f"{one.panel}: {one.expression}" for one in asked if not await seen.prometheus.query(one.expression)]

    assert await left_over(unanswered) == []


@pytest.mark.parametrize("path", dashboards(), ids=lambda path: path.stem)
async def test_everything_that_a_dashboard_selects_is_there(seen: Observed, path: Path) -> None:
    chosen = {"service": ".+", "instance": ".+", "bot": seen.bot}

    expressions = [question.expression for question in questions(path, chosen)]

    assert await left_over(partial(missing, seen.prometheus, expressions)) == []


async def test_everything_that_a_rule_selects_is_there(seen: Observed) -> None:
    assert await left_over(partial(missing, seen.prometheus, [rule.expr for rule in rules()])) == []


async def test_every_metric_that_is_asked_for_is_declared_by_a_process(seen: Observed) -> None:
    asked = [rule.expr for rule in rules()]
    for path in dashboards():
        asked += [question.expression for question in questions(path, {"service": "s", "instance": "i", "bot": "b"})]
    recorded = {rule.name for rule in rules() if not rule.is_alert}
    of_prometheus = {"up"}

    async def unknown() -> list[str]:
        declared = (await seen.prometheus.families()).keys() | recorded | of_prometheus
        found = {selector for expression in asked for selector in selectors(expression)}
        return sorted({s.metric for s in found if not {s.family, s.metric} & declared})

    assert await left_over(unknown) == []


async def test_query_of_unknown_metric_is_detected(seen: Observed) -> None:
    expressions = ["sum(runtime_nonsense_total) or vector(0)", 'runtime_containers{service="nobody"}', "up"]

    assert await missing(seen.prometheus, expressions) == [
        'runtime_containers{service="nobody"}',
        "runtime_nonsense_total",
    ]


async def test_rare_metrics_are_used_in_rules(seen: Observed) -> None:
    asked = {selector.metric for rule in rules() for selector in selectors(rule.expr)}

    assert {rarity.metric for rarity in RARITIES} <= asked


async def test_prometheus_evaluates_every_rule(seen: Observed) -> None:
    async def not_well() -> list[str]:
        told = await seen.prometheus.rules()
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in told if rule["health"] != "ok"]

    assert await left_over(not_well) == []
    assert len(await seen.prometheus.rules()) == len(rules())


async def test_healthy_deployment_fires_no_alert(seen: Observed) -> None:
    asked = f'ALERTS{{alertname!~"{_OF_A_BUSY_MACHINE}"}}'

    async def alarming() -> list[str]:
        # One bot of two ends as soon as it is begun.
        return [str(s.labels) for s in await seen.prometheus.query(asked) if s.labels["alertname"] != "BotsBackingOff"]

    assert await left_over(alarming) == []


async def left_over(ask: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What is still found after asking for a while, until nothing is.

    On a busy machine a scrape fails now and then, and its data is away till the next.
    """
    found = ["there was no answer"]

    async def is_settled() -> bool:
        found[:] = await ask()
        return not found

    with suppress(AssertionError):  # that it never settled; what is left says more
        await eventually(is_settled, within_seconds=30, every_seconds=1)
    return found


async def missing(prometheus: PrometheusServer, expressions: list[str]) -> list[str]:
    """The selectors that have no data."""
    wanted = {str(selector) for expression in expressions for selector in to_be_found(expression)}
    return [selector for selector in sorted(wanted) if not await prometheus.query(selector)]
