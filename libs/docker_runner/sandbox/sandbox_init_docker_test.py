"""The first process of a container, and the bots that try to be rid of it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.executable import Limits, Network
from libs.docker_runner.sandbox.sandbox_lease_docker_test import without_its_worker
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import asked, has_output
from tests.support.faults.init_attacks import OUTLIVE, REFUSED, TRY, outliving
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.changed_container import is_over, start_changed
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(300)

LATE_SECONDS = 1.0
# 32 interpreters have room for their own pages: only the attack on memory meets its limit.
TIGHT = Limits(memory_bytes=128 * MIB, tmp_bytes=4 * MIB, pids=32, cpus=0.5)


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def test_nothing_that_a_bot_can_ask_the_kernel_for_touches_the_init(bots: BotContainers) -> None:
    outcome, output = await bots.run(TRY, config=REFUSED)

    assert isinstance(outcome.result, dict), output
    refused = ("PermissionError: [Errno 1]", "PermissionError: [Errno 13]", "ProcessLookupError", "OSError: [Errno 3]")
    allowed = {name: came for name, came in outcome.result.items() if not came.startswith(refused)}
    assert allowed == {}
    assert outcome.result.keys() == REFUSED.keys()


@pytest.mark.parametrize("name", list(OUTLIVE))
async def test_a_bot_that_attacks_the_init_is_dead_when_its_lease_is_over(
    bots: BotContainers, tmp_path: Path, name: str
) -> None:
    late_seconds = []
    # How quickly is the best of three, for the sake of machines that are busy.
    for attempt in range(3):
        keepalive = KeepaliveFile(tmp_path / str(attempt))
        more: dict[str, Any] = {"config": REFUSED, "limits": TIGHT}
        running, until = await without_its_worker(bots, outliving(name), keepalive, **more)
        outcome = await running
        assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.LEASE_LOST, 75)
        assert outcome.ended.finished_at is not None
        late_seconds.append(outcome.ended.finished_at.timestamp() - until)
        if late_seconds[-1] < LATE_SECONDS:
            return
    pytest.fail(f"its ends were {late_seconds} s after those of the leases")


async def test_a_bot_that_ends_with_the_code_of_a_lost_lease_has_ended_by_itself(bots: BotContainers) -> None:
    outcome, _ = await bots.run("import os\ndef main(id, config): os._exit(75)")
    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.ERROR, 75)


async def test_the_init_is_the_first_process_and_another_user_than_the_bot(
    bots: BotContainers, docker_engine: Engine
) -> None:
    source = "import os, time\ndef main(id, config):\n print(os.getpid(), os.getppid(), flush=True)\n time.sleep(240)"
    container = await bots.runner.start(bots.executable(source))
    await eventually(lambda: has_output(bots, container))

    top = await asked(docker_engine, f"/containers/{container.container_id}/top?ps_args=-eo%20pid,uid,cmd")
    inspected = await asked(docker_engine, f"/containers/{container.container_id}/json")
    output = b"".join([piece.data async for piece in bots.runner.logs(container)])
    users = [(int(uid), command.split()[0].rpartition("/")[2]) for _, uid, command in top["Processes"]]

    assert output.split()[1] == b"1"
    # The one that keeps the state has the bot's effective user, and the init's real one.
    programs = [(0, "the0-init"), (0, "the0-init"), (container.user, "python3"), (container.user, "the0-init")]
    assert sorted(users) == programs
    status = await asyncio.to_thread(status_of, inspected["State"]["Pid"])
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 5 | 1 << 6 | 1 << 7
    assert status["NoNewPrivs"] == "1"
    await bots.runner.remove(container)


async def test_a_bot_opens_its_outputs_by_their_names(bots: BotContainers) -> None:
    source = """
def main():
    for name in ("stdout", "stderr", "fd/1", "fd/2"):
        with open("/dev/" + name, "w") as file:
            file.write(name + " was opened\\n")
"""
    outcome, output = await bots.run(source)
    assert outcome.succeeded, output
    assert sorted(output.splitlines()[:4]) == [f"{name} was opened" for name in ("fd/1", "fd/2", "stderr", "stdout")]


def test_a_work_folder_from_which_nothing_can_be_executed_is_refused_with_its_remedy(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from libs.docker_runner.errors import WorkFolderNotExecutable
from libs.docker_runner.containers.run_folders import RunFolders
try:
    RunFolders(Path(sys.argv[1])).prepare()
except WorkFolderNotExecutable as error:
    print(error)
"""
    mount = 'mount -t tmpfs -o noexec tmpfs "$1" && exec "$2" -P -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"from {tmp_path}, which is mounted with noexec: mount it with exec, or set TEMP_DIR" in done.stdout


def status_of(pid: int) -> dict[str, str]:
    """The fields that the kernel shows of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_orphans_that_end_are_taken_out_of_the_limit_of_processes(bots: BotContainers) -> None:
    source = """
import os, time
def orphan():
    pid = os.fork()
    if pid == 0:
        try:
            os.fork()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
def main():
    ends, made = time.monotonic() + 60, 0
    while made < 200 and time.monotonic() < ends:
        try:
            orphan()
            made += 1
        except BlockingIOError:
            time.sleep(0.01)
    return made
"""
    outcome, _ = await bots.run(source, limits=TIGHT)
    assert outcome.result == 200


# --- where the init may not be root


async def started_without_root(
    bots: BotContainers, engine: Engine, source: str, keepalive: KeepaliveFile
) -> ManagedContainer:
    """A bot whose init has the bot's user, and prints what it prints."""

    def without_root(body: dict[str, Any]) -> None:
        body["User"] = f"{bots.settings.users.first}:{bots.settings.users.first}"
        del body["HostConfig"]["CapAdd"]

    executable = bots.executable(source, config=REFUSED, limits=TIGHT, keepalive=keepalive.folder)
    return await start_changed(bots, engine.url, executable, without_root)


async def test_without_root_a_filter_closes_the_init_to_the_bot(
    bots: BotContainers, docker_engine: Engine, tmp_path: Path
) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive", 240.0)
    keepalive.refresh(time.monotonic() + 240.0)
    container = await started_without_root(bots, docker_engine, TRY, keepalive)
    await eventually(lambda: is_over(bots), within_seconds=60)
    output = b"".join([piece.data async for piece in bots.runner.logs(container)]).decode()
    [result] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    refused = ("PermissionError: [Errno 1]", "PermissionError: [Errno 13]")
    assert {name: came for name, came in result.items() if not came.startswith(refused)} == {}
    assert result.keys() == REFUSED.keys()
    await bots.runner.remove(container)


@pytest.mark.parametrize("name", list(OUTLIVE))
async def test_without_root_a_bot_that_attacks_the_init_is_dead_when_its_lease_is_over(
    bots: BotContainers, docker_engine: Engine, tmp_path: Path, name: str
) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive", 240.0)
    keepalive.refresh(time.monotonic() + 240.0)
    container = await started_without_root(bots, docker_engine, outliving(name), keepalive)
    await eventually(lambda: has_output(bots, container))
    keepalive.expire()
    await eventually(lambda: is_over(bots), within_seconds=20)
    assert (await bots.runner.remove(container)).exit_code == 75
