from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.executable import Entrypoint
from services.bot_runner.restarts import StartTimes

NOW = 1_800_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)


def container(started_at: datetime | None) -> ManagedContainer:
    return ManagedContainer(
        container_id="c",
        name="the0-bot",
        id="b",
        service="bot-runner",
        scope="x",
        entrypoint=Entrypoint.BOT,
        segment=1,
        spec_hash="s",
        code_etag="",
        revision=1,
        run_id="r",
        epoch=1,
        worker="w",
        token="t",
        started_at=started_at,
    )


@pytest.mark.parametrize("ahead_seconds", [3600.0, -3600.0, 1.5])
def test_start_by_a_clock_that_is_wrong_is_corrected(ahead_seconds: float) -> None:
    found = container(MOMENT + timedelta(seconds=ahead_seconds - 20))

    (one,) = StartTimes().corrected([found], NOW, NOW + ahead_seconds)

    assert one.started_at == MOMENT - timedelta(seconds=20)


@pytest.mark.parametrize("ahead_seconds", [0.9, -0.9, 1.0, -1.0])
def test_start_by_a_clock_that_is_nearly_right_stays_the_same(ahead_seconds: float) -> None:
    found = container(MOMENT - timedelta(seconds=20))

    assert StartTimes().corrected([found], NOW, NOW + ahead_seconds) == [found]


def test_container_without_a_start_time_started_when_it_was_first_seen() -> None:
    times = StartTimes()

    first = times.corrected([container(None)], NOW, NOW)
    later = times.corrected([container(None)], NOW + 60, NOW + 60)

    assert first == later == [container(MOMENT)]


def test_known_start_time_is_kept_when_a_later_list_has_none() -> None:
    times = StartTimes()
    found = container(MOMENT - timedelta(seconds=20))
    times.corrected([found], NOW, NOW)

    assert times.corrected([replace(found, started_at=None)], NOW + 60, NOW + 60) == [found]


def test_gone_container_is_forgotten() -> None:
    times = StartTimes()
    times.corrected([container(None)], NOW, NOW)
    times.corrected([], NOW + 30, NOW + 30)

    (one,) = times.corrected([container(None)], NOW + 60, NOW + 60)
    assert one.started_at == MOMENT + timedelta(seconds=60)
