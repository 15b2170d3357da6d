"""Each bot is a user of its own: what the kernel counts per user is not shared with other bots."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.executable import Network
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import asked, has_output
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

TAKE = """
import ctypes, os, platform, resource, signal, time

libc = ctypes.CDLL(None, use_errno=True)
MQ_OPEN = {"x86_64": 240, "aarch64": 180}[platform.machine()]
SIGNAL = signal.SIGRTMIN

def inotify():
    return libc.inotify_init() >= 0

def signal_pending():
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    return libc.sigqueue(os.getpid(), SIGNAL, None) == 0

queues = 0

def queue():
    global queues
    queues += 1
    return libc.syscall(MQ_OPEN, b"q%d" % queues, os.O_CREAT | os.O_RDWR, 0o600, None) >= 0

KINDS = {"inotify": inotify, "signals": signal_pending, "queues": queue}
"""
GREEDY = f"""{TAKE}
def taken(take):
    for number in range(1_000_000):
        if not take():
            return number
    return -1

def main(id, config):
    print({{name: taken(take) for name, take in KINDS.items()}}, flush=True)
    time.sleep(600)
"""
MODEST = f"""{TAKE}
def main(id, config):
    return {{name: take() for name, take in KINDS.items()}}
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def test_bot_that_takes_all_that_its_user_may_have_takes_nothing_from_another(
    bots: BotContainers, docker_engine: Engine
) -> None:
    greedy = await bots.runner.start(bots.executable(GREEDY, "greedy"))
    await eventually(lambda: has_output(bots, greedy), within_seconds=240)
    output = b"".join([piece.data async for piece in bots.runner.logs(greedy)]).decode()
    assert all(number > 0 for number in json.loads(output.replace("'", '"')).values()), output

    outcome, _ = await bots.run(MODEST, id="modest")
    assert outcome.result == {"inotify": True, "signals": True, "queues": True}

    top = await asked(docker_engine, f"/containers/{greedy.container_id}/top?ps_args=-eo%20pid,uid,gid,cmd")
    users = {(int(uid), int(gid)) for _, uid, gid, command in top["Processes"] if "python3" in command.split()[0]}
    assert users == {(greedy.user, greedy.user)}
    assert greedy.user in bots.settings.users
    await bots.runner.remove(greedy)


async def test_user_of_a_live_container_is_read_from_it_and_given_to_no_other(bots: BotContainers) -> None:
    source = "import time\ndef main():\n time.sleep(600)"
    started = await asyncio.gather(*(bots.runner.start(bots.executable(source, f"b{number}")) for number in range(3)))

    users = {container.name: container.user for container in started}
    assert len(set(users.values())) == 3
    # As another worker of the engine, which adopts them, sees them.
    assert {container.name: container.user for container in await bots.list()} == users
    await asyncio.gather(*(bots.runner.remove(container) for container in started))
