"""Queries of bots as the platform asks them: over the query port, to a bot that runs and to one that is stopped."""

import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.sdk import sdk_files
from tools.engine.ensure import Engine

BOT = """
import time
from the0 import state
def main(id, config):
    state.set("n", 1)
    print("up", flush=True)
    while True: time.sleep(1)
"""
QUERY = """
import os
from the0 import query, state

@query.handler("/n")
def n(req):
    return {"n": state.get("n"), "symbol": req.get("symbol"), "once": bool(os.environ["QUERY_PATH"])}

query.run()
"""


async def asked(service: Deployment, path: str, **more: Any) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{service.processes['master'].http_port}/query"
    request = {"bot_id": "b", "query_path": path, **more}
    async with aiohttp.ClientSession() as session, session.post(url, json=request) as answer:
        return answer.status, await answer.json()


async def test_bot_answers_while_it_runs_after_its_worker_was_replaced_and_when_it_is_stopped(
    tmp_path: Path, docker_engine: Engine
) -> None:
    async with deployment(tmp_path, docker_engine, settings=PATIENT) as service:
        await service.start(workers=1)
        code = {"main.py": BOT, "query.py": QUERY, **sdk_files()}
        service.platform.upload("b.zip", zipped(code))
        payload = service.platform.payload("b", {"enabled": True}, key="b.zip")
        payload["custom"]["config"]["entrypoints"]["query"] = "query.py"
        await service.platform.publish("the0.bot.created", payload)
        await eventually(lambda: service.running_with("b", "up"))

        running = await asked(service, "/n", params={"symbol": "BTC"}, timeout_sec=30)
        command = await service.terminal().succeed("bot", "query", "b", "/n", "--params", '{"symbol": "ETH"}')
        unknown = await asked(service, "/n", bot_id="none")
        await service.processes["w1"].process.kill()
        await service.start_process("worker", "w1").wait_ready()
        continued = await asked(service, "/n", params={"symbol": "BTC"}, timeout_sec=30)
        payload["config"]["enabled"] = False
        await service.platform.publish("the0.bot.updated", payload)
        await eventually(lambda: service.in_state("b", "disabled"))
        stopped = await asked(service, "/n", params={"symbol": "BTC"}, timeout_sec=30)

    answer = {"status": "ok", "data": {"n": 1, "symbol": "BTC", "once": False}}
    assert running == continued == (200, answer)
    assert json.loads(command.out)["data"]["symbol"] == "ETH"
    assert unknown == (404, {"status": "error", "error": "there is no bot 'none'"})
    # From the state that was saved when it ended.
    assert stopped == (200, {"status": "ok", "data": {"n": 1, "symbol": "BTC", "once": True}})
