"""Where a real engine puts its containers: elsewhere than below a pod's group, here."""

from collections.abc import AsyncIterator

import pytest_asyncio

from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.group_sight import GroupSight
from tests.support.servers.own_engine import OwnEngine

IMAGE = "python:3.11-slim"
POD = "0b9d3d6e-7a2e-4d0c-9d0e-0f6d1c2b3a4f"


@pytest_asyncio.fixture(loop_scope="session")
async def engine(private_engine: OwnEngine) -> AsyncIterator[Engine]:
    await private_engine.remove_containers()
    engine = Engine(private_engine.url)
    yield engine
    await engine.close()
    assert await private_engine.containers() == []


async def test_groups_elsewhere_are_a_complaint_that_names_the_remedy(engine: Engine) -> None:
    sight = GroupSight(engine, POD, IMAGE)
    assert "not verified yet" in sight.complaint

    await sight.check()

    assert "engine.sh" in sight.complaint


async def test_groups_stay_unverified_without_the_image(engine: Engine) -> None:
    sight = GroupSight(engine, POD, "the0-test/no-such-image:latest")

    await sight.check()

    assert "not verified yet" in sight.complaint


async def test_engine_outside_of_a_pod_is_not_checked(engine: Engine) -> None:
    sight = GroupSight(engine, None, IMAGE)

    await sight.check()

    assert sight.complaint == ""
