"""The state of a bot that vendors the published SDK, with real workers that end, die, and are replaced by others."""

import signal
from pathlib import Path

from libs.core.process.service import BOT_SCHEDULER
from tests.support.eventually import eventually
from tests.support.faults.tcp_proxy import TcpProxy
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.sdk import sdk_files
from tools.engine.ensure import Engine

BOT = """
import signal, sys, time
from the0 import state

def stop(*_):
    state.set("stops", state.get("stops", 0) + 1)
    sys.exit(0)

def main(id, config):
    signal.signal(signal.SIGTERM, stop)
    state.set("starts", state.get("starts", 0) + 1)
    print("starts", state.get("starts"), "stops", state.get("stops", 0), flush=True)
    while True:
        time.sleep(0.1)
"""
FIRING = """
from the0 import state
def main(id, config):
    state.set("firings", state.get("firings", 0) + 1)
    print("firing", state.get("firings"), flush=True)
"""
SECONDS = 120.0


async def saved(made: Deployment, entity_id: str, number: int) -> bool:
    """Whether that many versions were saved."""
    document = await made.document(entity_id) or {}
    return int(document.get("saved_state", {}).get("number", 0)) >= number


async def test_state_follows_a_bot_to_other_workers_through_a_graceful_end_and_a_crash(
    tmp_path: Path, docker_engine: Engine
) -> None:
    elsewhere = {name: f"{tmp_path}/w2-{name}" for name in ("TEMP_DIR", "KEEPALIVE_DIR", "SPEC_DIR")}
    async with deployment(tmp_path, docker_engine, settings=PATIENT) as made:
        made.platform.upload("b.zip", zipped({"main.py": BOT, **sdk_files()}))
        await made.start()
        await made.platform.create_bot("b", {}, key="b.zip")
        await eventually(lambda: made.running_with("b", "starts 1 stops 0"), SECONDS)
        await eventually(lambda: saved(made, "b", 1), SECONDS)

        await made.start_process("worker", "w2", **elsewhere).wait_ready()
        made.processes["w1"].process.signal(signal.SIGTERM)
        container = await eventually(lambda: made.running_with("b", "starts 2 stops 1"), SECONDS)
        assert container is not None
        await eventually(lambda: saved(made, "b", 3), SECONDS)

        await made.processes["w2"].process.kill()
        await made.start_process("worker", "w2", **elsewhere).wait_ready()
        shown = await made.terminal().succeed("bot", "state", "get", "b", "starts")
        await made.platform.update_bot("b", {"changed": True}, key="b.zip")
        await eventually(lambda: made.running_with("b", "starts 3 stops 2"), SECONDS)

    assert shown.out.strip() == "2"


async def test_bot_restarts_on_its_host_with_its_last_state_while_the_storage_is_away(
    tmp_path: Path, docker_engine: Engine
) -> None:
    async with deployment(tmp_path, docker_engine, settings=PATIENT) as made:
        made.platform.upload("b.zip", zipped({"main.py": BOT, **sdk_files()}))
        async with TcpProxy.before(int(made.s3_server.endpoint.rpartition(":")[2])) as proxy:
            await made.start(MINIO_ENDPOINT=f"127.0.0.1:{proxy.port}")
            await made.platform.create_bot("b", {}, key="b.zip")
            await eventually(lambda: made.running_with("b", "starts 1 stops 0"), SECONDS)
            await eventually(lambda: saved(made, "b", 1), SECONDS)
            await proxy.close()

            await made.terminal().succeed("bot", "restart", "b")
            await eventually(lambda: made.running_with("b", "starts 2 stops 1"), SECONDS)
            await made.terminal().succeed("bot", "restart", "b")
            await eventually(lambda: made.running_with("b", "starts 3 stops 2"), SECONDS)

            async def is_stored() -> bool:
                return (await made.terminal().run("bot", "state", "get", "b", "starts")).out.strip() == "3"

            assert not await is_stored()
            await proxy.open()
            await eventually(is_stored, SECONDS)


async def test_schedule_keeps_its_state_from_firing_to_firing(tmp_path: Path, docker_engine: Engine) -> None:
    async with deployment(tmp_path, docker_engine, service=BOT_SCHEDULER, settings=PATIENT) as made:
        made.platform.upload("s.zip", zipped({"main.py": FIRING, **sdk_files()}))
        await made.start()
        payload = made.platform.payload("s", {"schedule": "@every 1s"}, key="s.zip")
        await made.platform.publish("the0.bot-schedule.created", payload)

        await eventually(lambda: saved(made, "s", 3), SECONDS)

        shown = await made.terminal().succeed("schedule", "state", "get", "s", "firings")
    assert int(shown.out) >= 3
