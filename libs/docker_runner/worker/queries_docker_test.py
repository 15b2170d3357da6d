"""Queries of real containers: beside the bot, and in containers of their own."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import pytest_asyncio

from libs.core.config.query_settings import QuerySettings
from libs.core.queries.messages import Query, QueryAnswer, QueryFault
from libs.core.secrets.resolver import SecretSources
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder, query_service
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.executable import Entrypoint, Executable, Network
from libs.docker_runner.worker.queries import LATE, WorkerQueries
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.deployed_bot import DeployedBot, DeployedCode
from tests.support.sdk import sdk_files
from tests.support.servers.own_engine import GVISOR, OwnEngine
from tools.engine.ensure import Engine

SLEEPER = "import time\ndef main(id, config):\n print('ready')\n time.sleep(3600)\n"
NODE_SLEEPER = "module.exports = () => new Promise(() => setInterval(() => {}, 1000));"
WITH_SDK = """
import os
from the0 import query, state

@query.handler("/who")
def who(req):
    groups = {"uid": os.getuid() != int(req.get("uid")), "gid": os.getgid() == int(req.get("uid"))}
    return {"params": req.params, "config": query.get_config(), "beside": os.environ["BOT_TYPE"], **groups}

@query.handler("/state")
def read(req):
    return state.get("n")

@query.handler("/write")
def write(req):
    state.set("n", 2)

@query.handler("/force")
def force(req):
    for path in ("/state/.the0-state/n.json", "/state/new"):
        try:
            open(path, "w")
        except OSError as error:
            found = type(error).__name__
        else:
            return "written"
    return found

@query.handler("/crash")
def crash(req):
    print("last words", flush=True)
    os._exit(3)

@query.handler("/huge")
def huge(req):
    return "x" * 2_000_000

query.run()
"""
STATEFUL = """
import time
from the0 import state
def main(id, config):
    state.set("n", 1)
    print("ready")
    time.sleep(3600)
"""
NODE = """
const http = require("http");
const answer = (path, query) => ({ status: "ok", data: { path, query, main: require.main === module } });
if (process.env.QUERY_PATH) {
  const text = JSON.stringify(answer(process.env.QUERY_PATH, JSON.parse(process.env.QUERY_PARAMS)));
  require("fs").writeFileSync("/query/result.json", text);
  process.exit(1);
} else if (process.env.BOT_TYPE === "realtime") {
  http.createServer((request, response) => {
    const url = new URL(request.url, "http://bot");
    response.end(JSON.stringify(answer(url.pathname, Object.fromEntries(url.searchParams))));
  }).listen(process.env.THE0_QUERY_PORT);
}
"""
HOSTILE = """
import os, socket, time
server = socket.create_server(("127.0.0.1", 9476))
while True:
    client, _ = server.accept()
    path = client.recv(65536).split(b" ")[1]
    if path == b"/garbage":
        client.sendall(os.urandom(100_000))
    elif path == b"/endless":
        client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        try:
            while True:
                client.sendall(b"x" * 65536)
        except OSError:
            continue
    elif path == b"/hang":
        clients = [client]
        continue
    elif path == b"/forever":
        time.sleep(3600)
    elif path == b"/vsock":
        try:
            result = socket.socket(40, 1).close()
        except OSError as error:
            result = type(error).__name__
        client.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n{"status": "ok", "data": "%s"}' % str(result).encode())
    elif path == b"/deep":
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + b"[" * 100_000)
    else:
        client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n{\\"status\\": \\"ok\\"}")
    client.close()
"""

LEAKING = """
import json, os
print("last words", json.loads(os.environ["BOT_CONFIG"])["key"], flush=True)
os._exit(3)
"""
SECRET = "k3y-of-ann-0815"


@dataclass
class Queried:
    """Queries of one bot."""

    bots: BotContainers
    queries: WorkerQueries
    deployed: dict[str, DeployedBot]

    def deploy(
        self,
        bot: str,
        query: str,
        runtime: str = "python3.11",
        *,
        with_sdk: bool = False,
        config: Mapping[str, Any] = MappingProxyType({"a": 1}),
    ) -> Executable:
        """Deploy code of the owner `ann` whose entrypoints have these texts; return what starts it."""
        config = dict(config)
        # For Node, a name may lack its suffix.
        file, named = ("query.py", "query.py") if runtime == "python3.11" else ("query.js", "query")
        files = {file: query, **(sdk_files() if with_sdk else {})}
        executable = self.bots.executable(bot, runtime=runtime, files=files, query=named, config=config, owner="ann")
        description = {"runtime": runtime, "entrypoints": {"bot": executable.script, "query": named}}
        code = DeployedCode(key=executable.code.key)
        self.deployed["b1"] = DeployedBot("b1", config=config, bot=description, code=code)
        return executable

    async def query(self, path: str, timeout_seconds: float = 60.0, **parameters: object) -> QueryAnswer:
        """Send a query like the worker's stream."""
        async with asyncio.timeout(timeout_seconds):
            return await self.queries.answer(Query("b1", path, json.dumps(parameters), timeout_seconds, 1))

    async def data(self, path: str, **parameters: object) -> Any:
        """Return the answer's data."""
        answer = await self.query(path, 60.0, **parameters)
        assert answer.fault is None, answer.body
        return json.loads(answer.body)


@pytest_asyncio.fixture(loop_scope="session")
async def queried(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[Queried]:
    async with open_queries(tmp_path, scope, docker_engine.url) as queried:
        yield queried


@pytest_asyncio.fixture(loop_scope="session")
async def queried_in_gvisor(tmp_path: Path, scope: str, private_engine: OwnEngine) -> AsyncIterator[Queried]:
    async with open_queries(tmp_path, scope, private_engine.url, container_runtime=GVISOR) as queried:
        yield queried


@asynccontextmanager
async def open_queries(folder: Path, scope: str, url: str, **settings: Any) -> AsyncIterator[Queried]:
    deployed: dict[str, DeployedBot] = {}

    async def stored(entity_id: str) -> DeployedBot | None:
        return deployed.get(entity_id)

    async with bot_containers(folder, scope, url, network=Network.NONE, **settings) as bots:
        builder = ExecutableBuilder(
            settings=bots.settings,
            service="bot-runner",
            scope=scope,
            entrypoint=Entrypoint.BOT,
            code=CodeSources("bots"),
            segment=1,
            epoch=0,
            worker="w",
            keepalive=None,
        )
        queries = WorkerQueries(
            bots.runner,
            stored,
            QuerySettings(answer_kb=1024, per_bot=2, containers_per_worker=1),
            service="bot-runner",
            scope=scope,
            executables=lambda segment: builder,
            runs_beside=True,
        )
        running = asyncio.create_task(queries.run())
        try:
            yield Queried(bots, queries, deployed)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for service in ("bot-runner", query_service("bot-runner")):
                for container in await bots.runner.list(service, scope):
                    await bots.runner.remove(container)


async def started(queried: Queried, executable: Executable) -> ManagedContainer:
    container = await queried.bots.runner.start(executable)

    async def is_ready() -> bool:
        return b"ready" in b"".join([line.data async for line in queried.bots.runner.logs(container)])

    await eventually(is_ready, within_seconds=120)
    return container


async def test_running_bot_with_the_sdk_answers_and_its_state_is_read_only(queried: Queried) -> None:
    container = await started(queried, queried.deploy(STATEFUL, WITH_SDK, with_sdk=True))

    who = await queried.data("/who", uid=container.user, symbol="BTC/USD & more", limit=10)
    state = await queried.data("/state")
    written = await queried.data("/write")
    forced = await queried.data("/force")
    unknown = await queried.data("/none")
    huge = await queried.query("/huge")
    crashed = await queried.query("/crash")

    params = {"uid": str(container.user), "symbol": "BTC/USD & more", "limit": "10"}
    expected = {"params": params, "config": {"a": 1}, "beside": "realtime", "uid": True, "gid": True}
    assert who == {"status": "ok", "data": expected}
    assert state == {"status": "ok", "data": 1}
    assert written["status"] == "error"
    assert "read-only" in written["error"]
    assert forced == {"status": "ok", "data": "PermissionError"}
    assert (unknown["status"], unknown["error"]) == ("error", "No handler for path: /none")
    assert huge.fault is QueryFault.ANSWER_TOO_LARGE
    assert crashed.fault is QueryFault.CRASHED
    assert "it ended with exit code 3" in json.loads(crashed.body)["error"]
    assert "last words" in json.loads(crashed.body)["error"]

    async def answers_again() -> bool:
        return (await queried.query("/state")).fault is None

    await eventually(answers_again)
    output = b"".join([line.data async for line in queried.bots.runner.logs(container)])
    assert b"last words" in output
    alive = await queried.bots.runner.inspect(container)
    assert alive is not None
    assert alive.state is ContainerState.RUNNING


async def test_value_of_a_secret_in_the_last_words_of_a_query_process_is_masked(
    tmp_path: Path, scope: str, docker_engine: Engine
) -> None:
    (tmp_path / "secrets" / "ann").mkdir(parents=True)
    (tmp_path / "secrets" / "ann" / "key").write_text(SECRET)
    sources = SecretSources(tmp_path / "secrets")
    async with open_queries(tmp_path, scope, docker_engine.url, secrets=sources) as queried:
        await started(queried, queried.deploy(STATEFUL, LEAKING, with_sdk=True, config={"key": {"$secret": "key"}}))

        answer = await queried.query("/x")

    assert answer.fault is QueryFault.CRASHED
    assert b"last words ***" in answer.body
    assert SECRET.encode() not in answer.body


async def test_bot_on_gvisor_answers_beside_the_bot_and_in_a_container_of_its_own(queried_in_gvisor: Queried) -> None:
    queried = queried_in_gvisor
    executable = queried.deploy(STATEFUL, WITH_SDK, with_sdk=True)

    once = await queried.query("/none")
    container = await started(queried, executable)
    state = await queried.data("/state")
    written = await queried.data("/write")
    forced = await queried.data("/force")

    assert json.loads(once.body)["error"] == "No handler for path: /none"
    assert state == {"status": "ok", "data": 1}
    assert "read-only" in written["error"]
    assert forced == {"status": "ok", "data": "PermissionError"}
    await queried.bots.runner.remove(container)


async def test_hostile_query_process_harms_only_its_own_answers(queried: Queried) -> None:
    container = await started(queried, queried.deploy(SLEEPER, HOSTILE))

    faults = [(await queried.query(path)).fault for path in ("/garbage", "/endless", "/deep")]
    with pytest.raises(TimeoutError):
        await queried.query("/hang", timeout_seconds=1.0)
    good = await queried.data("/good")

    assert faults == [QueryFault.BAD_ANSWER, QueryFault.ANSWER_TOO_LARGE, QueryFault.BAD_ANSWER]
    assert good == {"status": "ok"}
    alive = await queried.bots.runner.inspect(container)
    assert alive is not None
    assert alive.state is ContainerState.RUNNING


async def test_query_process_has_no_sockets_around_the_rules_of_the_network(queried: Queried) -> None:
    await started(queried, queried.deploy(SLEEPER, HOSTILE))

    assert (await queried.data("/vsock"))["data"] == "PermissionError"


async def test_query_process_that_hangs_is_started_again(queried: Queried) -> None:
    await started(queried, queried.deploy(SLEEPER, HOSTILE))
    await queried.data("/good")

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await queried.query("/forever", timeout_seconds=0.5)

    assert await queried.data("/good") == {"status": "ok"}


async def test_node_answers_beside_the_bot_and_in_a_container_of_its_own(queried: Queried) -> None:
    executable = queried.deploy(NODE_SLEEPER, NODE, "nodejs20")

    once = await queried.data("/a", n=1)
    container = await queried.bots.runner.start(executable)
    beside = await queried.data("/a", n=1)

    assert once == {"status": "ok", "data": {"path": "/a", "query": {"n": 1}, "main": True}}
    assert beside == {"status": "ok", "data": {"path": "/a", "query": {"n": "1"}, "main": True}}
    await queried.bots.runner.remove(container)
    again = await queried.data("/a", n=2)
    assert again["data"]["query"] == {"n": 2}


async def test_stopped_bot_with_the_sdk_answers_in_a_container_that_is_removed(queried: Queried) -> None:
    queried.deploy(STATEFUL, WITH_SDK, with_sdk=True)

    unknown, written = await queried.data("/none"), await queried.data("/write")
    forced, crashed = await queried.data("/force"), await queried.query("/crash")

    assert (unknown["status"], unknown["error"]) == ("error", "No handler for path: /none")
    assert "read-only" in written["error"]
    assert forced["data"] == "PermissionError"
    assert crashed.fault is QueryFault.CRASHED
    assert "last words" in json.loads(crashed.body)["error"]
    assert await queried.bots.runner.list(query_service("bot-runner"), queried.bots.scope) == []


async def test_container_of_a_query_ends_when_the_bot_is_killed(queried: Queried) -> None:
    queried.deploy(SLEEPER, "import time\ntime.sleep(3600)")
    service = query_service("bot-runner")
    querying = asyncio.create_task(queried.query("/slow"))
    await eventually(lambda: queried.bots.runner.list(service, queried.bots.scope))

    queried.deployed.clear()

    assert (await querying).fault is QueryFault.UNAVAILABLE
    assert await queried.bots.runner.list(service, queried.bots.scope) == []


async def test_container_of_a_query_ends_at_its_time_limit_and_one_runs_at_a_time(queried: Queried) -> None:
    queried.deploy(SLEEPER, "import time\ntime.sleep(3600)")

    slow = asyncio.create_task(queried.query("/slow", timeout_seconds=3.0))
    await asyncio.sleep(0)
    refused = await queried.query("/other")

    assert refused.fault is QueryFault.TOO_MANY
    with pytest.raises(TimeoutError):
        await slow
    await without_late_starts()
    assert await queried.bots.runner.list(query_service("bot-runner"), queried.bots.scope) == []


async def test_container_that_starts_after_the_time_limit_is_removed(queried: Queried) -> None:
    queried.deploy(SLEEPER, "import time\ntime.sleep(3600)")

    with pytest.raises(TimeoutError):
        await queried.query("/slow", timeout_seconds=0.02)

    await without_late_starts()
    assert await queried.bots.runner.list(query_service("bot-runner"), queried.bots.scope) == []


async def without_late_starts() -> None:
    await eventually(lambda: LATE not in {task.get_name() for task in asyncio.all_tasks()})
