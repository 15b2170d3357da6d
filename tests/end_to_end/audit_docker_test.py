"""The audit record of a deployment: deployed, read, killed and deleted, each with who did it."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from libs.core.api.paths import PREFIX
from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.cli.local_user import user_of_this_machine
from tools.engine.ensure import Engine

TOKEN = "a-token-of-the-operator"
PRINTER = """
import time
def main(id, config):
    print("hello", flush=True)
    while True:
        time.sleep(0.1)
"""


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Deployment]:
    """A master and a worker, which require a token or the header of a proxy."""
    given = {**PATIENT, "HTTP_TOKEN": TOKEN, "HTTP_USER_HEADER": "X-Forwarded-User"}
    async with deployment(tmp_path_factory.mktemp("audit"), docker_engine, settings=given) as made:
        await made.start(workers=1)
        made.platform.upload("printer.zip", zipped({"main.py": PRINTER}))
        yield made


async def answer(runner: Deployment, path: str, prefix: str = PREFIX, **headers: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{runner.processes['master'].http_port}{prefix}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as found:
        text = await found.text()
        return found.status, await found.json() if found.content_type == "application/json" else text


async def test_deployment_reads_kill_and_deletion_are_recorded_with_who_did_them(runner: Deployment) -> None:
    await runner.platform.create_bot("b", {}, key="printer.zip", author="ann")
    await eventually(lambda: runner.running_with("b", "hello"), within_seconds=120)
    basic = "Basic " + base64.b64encode(f"carl:{TOKEN}".encode()).decode()

    assert (await answer(runner, "/entities/b/logs"))[0] == 401
    assert (await answer(runner, "/audit"))[0] == 401
    for headers in ({"X-Forwarded-User": "dora"}, {"Authorization": basic}, {"Authorization": f"Bearer {TOKEN}"}):
        assert (await answer(runner, "/entities/b/logs?tail=5", **headers))[0] == 200
    # The last lines of runs are output too.
    assert (await answer(runner, "/runs?entity=b", **{"X-Forwarded-User": "eve"}))[0] == 200
    assert (await answer(runner, "/entity?id=b", prefix="", **{"X-Forwarded-User": "fred"}))[0] == 200
    assert (await answer(runner, "/", prefix="", **{"X-Forwarded-User": "gina"}))[0] == 200
    me, terminal = user_of_this_machine(), runner.terminal()
    await terminal.run("bot", "logs", "b")
    await terminal.run("bot", "kill", "b", "--reason", "it loses money")
    await runner.platform.delete_bot("b")

    async def entries() -> list[tuple[str, str, str]]:
        _, page = await answer(runner, "/audit?entity=b&limit=100", Authorization=f"Bearer {TOKEN}")
        return [(one["action"], one["who"], one["way"]) for one in page["entries"]]

    expected = {
        ("created", "ann", "event"),
        ("read-output", "dora", "http"),
        ("read-output", "eve", "http"),
        ("read-output", "fred", "http"),
        ("read-output", "token:carl", "http"),
        ("read-output", "token", "http"),
        ("read-output", me, "http"),
        ("killed", me, "command"),
        ("deleted", "", "event"),
    }

    async def complete() -> bool:
        return expected <= set(await entries())

    await eventually(complete, within_seconds=60)
    assert set(await entries()) == expected
    shown = await terminal.run("audit", "--id", "b", "--action", "killed", "--output", "json")
    assert "it loses money" in shown.out
    _, of_all = await answer(runner, "/audit?entity=all", Authorization=f"Bearer {TOKEN}")
    assert ("read-output", "gina") in [(one["action"], one["who"]) for one in of_all["entries"]]
