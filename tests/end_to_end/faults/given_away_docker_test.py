"""A worker ends, and the only other one has another engine: a bot that ignores SIGTERM holds up only itself."""

import os
import signal
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

QUICK = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.05)\n"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + QUICK
GRACE = {"BOT_STOP_SECONDS": "300"}
SECONDS = 120.0


async def running(made: Deployment, bot_id: str) -> str:
    container = await eventually(lambda: made.running_with(bot_id, "up"), SECONDS)
    assert container is not None
    return str(container["Id"])


async def test_bot_that_is_deaf_to_sigterm_holds_up_only_itself_when_its_segment_moves(
    tmp_path: Path, docker_engine: Engine, private_engine: OwnEngine
) -> None:
    async with deployment(tmp_path, docker_engine, settings={**PATIENT, **GRACE}) as made:
        made.platform.upload("quick.zip", zipped({"main.py": QUICK}))
        made.platform.upload("deaf.zip", zipped({"main.py": DEAF}))
        master = made.start_process("master", "master")
        former = made.start_process("worker", "w1", **made.on_other_engine(private_engine.url))
        for process in (master, former):
            await process.wait_ready()
        made.engine = Engine(private_engine.url)
        for bot_id in ("quick", "deaf"):
            await made.platform.create_bot(bot_id, {}, key=f"{bot_id}.zip")
        left = {one: await private_engine.process(await running(made, one)) for one in ("quick", "deaf")}
        made.engine = docker_engine
        await made.start_process("worker", "w2").wait_ready()

        former.process.signal(signal.SIGTERM)

        await running(made, "quick")
        assert left["deaf"].exists()
        assert not left["quick"].exists()
        assert await made.containers("deaf") == []

        os.kill(int(left["deaf"].name), signal.SIGKILL)
        await running(made, "deaf")
        assert not left["deaf"].exists()
        await former.process.wait(SECONDS)
        runs = await made.mongo["bot_runner"]["runs"].find({"open": False}).to_list(10)
        assert {(run["entity_id"], run["presumed"]) for run in runs} == {("quick", False), ("deaf", False)}
