"""A Docker engine that hangs: its worker gives its segments up to a worker of another engine, one after another."""

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.own_engine import OwnEngine
from tools.engine.ensure import Engine

BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(0.1)\n"
BOTS = ["b1", "b2"]
SETTINGS = {"MAX_BOTS_PER_PARTITION": "1", "LEASE_SECONDS": "10"}


async def running(made: Deployment, bot_id: str) -> str:
    container = await eventually(lambda: made.running_with(bot_id, "up"), 120.0)
    assert container is not None
    return str(container["Id"])


async def owners(made: Deployment) -> set[str]:
    partitions = made.mongo["bot_runner"]["partitions"].find({"bot_count": {"$gt": 0}})
    return {str((partition.get("lease") or {}).get("worker_id")) async for partition in partitions}


async def test_hung_engine_gives_its_bots_up_to_another_engine_and_keeps_them_while_there_is_none(
    tmp_path: Path, docker_engine: Engine, private_engine: OwnEngine
) -> None:
    async with deployment(tmp_path, docker_engine, settings=SETTINGS) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        master = made.start_process("master", "master")
        worker = made.start_process("worker", "w1", **made.on_other_engine(private_engine.url))
        for process in (master, worker):
            await process.wait_ready()
        made.engine = Engine(private_engine.url)
        lost = {}
        for bot_id in BOTS:
            await made.platform.create_bot(bot_id, {}, key="bot.zip")
            lost[bot_id] = await private_engine.process(await running(made, bot_id))
        made.engine = docker_engine

        private_engine.freeze()
        try:

            async def says_so() -> bool:
                return "not answered" in str((await made.readiness("w1"))["docker"]["detail"])

            await eventually(says_so)
            # With no other engine the worker keeps renewing, and its bots run.
            assert await owners(made) == {"w1"}
            assert all(process.exists() for process in lost.values())

            await made.start_process("worker", "w2").wait_ready()

            for bot_id in BOTS:
                await running(made, bot_id)
                assert not lost[bot_id].exists()
            await eventually(lambda: _owned_by_the_other(made))
        finally:
            private_engine.thaw()


async def _owned_by_the_other(made: Deployment) -> bool:
    return await owners(made) == {"w2"}
