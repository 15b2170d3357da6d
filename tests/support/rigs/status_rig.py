"""A service to observe from outside: bots with hostile ids and hostile output, a failing one, and a second master."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from jsonschema import Draft202012Validator
from yarl import URL

from libs.core.api.paths import DESCRIPTION, PREFIX, encoded
from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine
from tools.stack.ports import free_port

SECRET = "hunter2-is-in-the-config"
TICKER = "ticker"
EVIL = "<img src=x onerror=alert(1)>/..?#%\u202e"
FAILING = "failing"
IDLE = [
    "..",
    ".",
    "a/b c",
    "{braces}",
    "\N{ROCKET}",
    "x" * 300,
    "<script>document.title='owned'</script>",
    "%2F",
    "\\n\n",
]
ALL = [TICKER, EVIL, FAILING, *IDLE]

PRINTS = r"""
import itertools, time

def main(id, config):
    for number in itertools.count():
        if number % 50 == 0:  # so that the last lines always contain it
            print("<script>document.title='owned'</script>")
            print("<img src=x onerror=\"document.title='owned'\">")
            print("\x1b[31mred\x1b[0m \x1b]0;owned\x07 \u202egnp.exe \u200b")
            print("y" * 100_000)
            print('{"_metric": "<b>pnl</b>", "value": 12.5, "symbol": "<script>", "nothing": NaN}')
        print("tick", number, time.time(), flush=True)
        time.sleep(0.2)
"""
FAILS = "def main(id, config):\n    print('<b>last words</b>')\n    raise ValueError('no <i>funds</i>')\n"


@dataclass
class Outside:
    """The deployment and a client of its HTTP servers."""

    deployment: Deployment
    session: aiohttp.ClientSession

    def url(self, process: str, path: str) -> URL:
        """Return the URL of *path* at *process*; the path is not encoded."""
        return URL(f"http://127.0.0.1:{self.deployment.processes[process].http_port}{path}", encoded=True)

    async def get(self, process: str, path: str) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        async with self.session.get(self.url(process, path)) as answer:
            return answer.status, json.loads(await answer.text())

    async def text(self, process: str, path: str) -> tuple[int, str]:
        """Return status and text of an answer."""
        async with self.session.get(self.url(process, path)) as answer:
            return answer.status, (await answer.read()).decode(errors="replace")

    async def checked(self, process: str, path: str) -> tuple[int, Any]:
        """Return status and JSON of an answer that conforms to the process's own description."""
        _, described = await self.get(process, DESCRIPTION)
        template = operation_path(path)
        status, body = await self.get(process, path)
        answers = described["paths"][template]["get"]["responses"]
        assert str(status) in answers, f"{path}: {status} is not described: {body}"
        schema = answers[str(status)]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": described["components"]}).validate(body)
        return status, body

    def logs_path(self, entity_id: str, query: str) -> str:
        """Return the path of an entity's output."""
        return f"{PREFIX}/entities/{encoded(entity_id)}/logs?{query}"


def operation_path(path: str) -> str:
    """Return the path in a description that matches a request's path."""
    parts = path.partition("?")[0].removeprefix(PREFIX).split("/")
    if parts[1] == "entities" and len(parts) > 2:
        parts[2] = "{id}"
    return PREFIX + "/".join(parts)


@asynccontextmanager
async def outside(folder: Path, engine: Engine) -> AsyncIterator[Outside]:
    """One worker with all entities in one segment, a leading and a standby master."""
    settings = {**PATIENT, "MAX_BOTS_PER_PARTITION": "100", "HTTP_HOST": "127.0.0.1", "LOG_LEVEL": "info"}
    async with (
        deployment(folder, engine, settings=settings) as made,
        aiohttp.ClientSession(read_bufsize=1 << 20) as session,
    ):
        await made.start(workers=1)
        made.start_process("master", "standby", GRPC_PORT=str(free_port()))
        made.platform.upload("prints.zip", zipped({"main.py": PRINTS}))
        made.platform.upload("fails.zip", zipped({"main.py": FAILS}))
        await _deploy(made)
        yield Outside(made, session)


async def _deploy(made: Deployment) -> None:
    config: Mapping[str, Any] = {"key": SECRET}
    # Create the first one alone: concurrent ones may go to several segments, and there is one worker.
    await made.platform.create_bot(TICKER, config, key="prints.zip")
    await eventually(lambda: made.document(TICKER))
    await made.platform.create_bot(EVIL, config, key="prints.zip")
    await made.platform.create_bot(FAILING, config, key="fails.zip")
    for entity_id in IDLE:
        await made.platform.create_bot(entity_id, {**config, "enabled": False}, key="prints.zip")
    states = [(TICKER, "running"), (EVIL, "running"), (FAILING, "backing-off"), *((idle, "disabled") for idle in IDLE)]

    async def settled() -> bool:
        return all(await asyncio.gather(*(made.in_state(entity_id, state) for entity_id, state in states)))

    await eventually(settled)


def artifacts() -> Path:
    """The folder for artifacts of tests: $TEST_ARTIFACTS, else a folder for temporary files."""
    folder = Path(os.environ.get("TEST_ARTIFACTS") or Path(tempfile.gettempdir()) / "the0-test-artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
