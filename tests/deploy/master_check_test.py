"""The health check of Compose's masters, on the answers that masters give."""

import asyncio
from collections.abc import Mapping

import pytest
import yaml

from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from tests.deploy.manifests import ROOT
from tools.stack.ports import free_port

LEADS = {"leadership": (True, "leads (epoch 7)", True)}
STANDBY = {"leadership": (False, "host-5f leads; this master is on standby", True)}
STARTED = {"start": (True, "", True), "mongodb": (True, "", True), "nats": (True, "", False)}
NO_MONGODB = {"mongodb": (False, 'no primary: {"ok": 0, "required": false}', True)}
NO_NATS = {"nats": (False, "connecting {}", False)}
STARTING = {"start": (False, "the process is starting", True)}

State = tuple[bool, str, bool]
"""Whether it is ok, the detail, and whether it is required."""


async def is_healthy(port: int) -> bool:
    """What the health check of `compose.yaml` says of the process on *port*."""
    master = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["x-master"]
    kind, *command = master["healthcheck"]["test"]
    assert kind == "CMD"
    command[-1] = command[-1].replace("$$", "$").replace("/8080", f"/{port}")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 60) == 0


@pytest.mark.parametrize(
    ("states", "healthy"),
    [
        (STARTED | LEADS, True),
        (STARTED | STANDBY, True),
        (STARTED | NO_NATS | LEADS, True),
        (STARTED | NO_NATS | STANDBY, True),
        (STARTED | NO_MONGODB | LEADS, False),
        (STARTED | NO_MONGODB | STANDBY, False),
        (STARTED | NO_NATS | NO_MONGODB | STANDBY, False),
        (STARTED | STARTING | STANDBY, False),
        (STARTING, False),
        ({}, False),
    ],
)
async def test_master_is_healthy_with_all_that_it_requires_apart_from_the_leadership(
    states: Mapping[str, State], healthy: bool
) -> None:
    readiness = Readiness()
    for name, (ok, detail, required) in states.items():
        readiness.report(name, ok, detail, required=required)
    app = HttpApp(HttpSettings(port=0, host="127.0.0.1"), readiness)
    await app.start()
    try:
        assert await is_healthy(app.port) is healthy
    finally:
        await app.close()


async def test_master_that_does_not_answer_is_not_healthy() -> None:
    assert not await is_healthy(free_port())
