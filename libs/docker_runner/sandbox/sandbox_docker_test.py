"""Who a bot is, what it can write and what it can see, tried by a hostile one on a real engine.

SANDBOX.md names these tests, and those of the other sandbox_…_docker_test.py, row by row.
"""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.engine.users import UserRange
from tests.support.eventually import eventually
from tests.support.faults.hostile_bot import asked, has_output
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        yield bots


# --- who it is


def test_a_bot_is_no_root(probe: dict[str, Any]) -> None:
    user, group, groups = probe["uid"]
    assert user in UserRange()
    assert group == user
    assert groups in ([], [group])
    effective, permitted, bounding, inheritable, ambient = (int(mask, 16) for mask in probe["capabilities"])
    assert (effective, permitted, inheritable, ambient) == (0, 0, 0, 0)
    # What the container's init has and cannot take out of the bound; with no-new-privileges none can be gained.
    assert bounding == 1 << CAP_KILL | 1 << CAP_SETGID | 1 << CAP_SETUID


def test_a_bot_cannot_become_root(probe: dict[str, Any]) -> None:
    assert probe["setuid"].startswith("PermissionError")
    assert probe["no_new_privileges"] == "1"
    assert "b'0" not in probe["su"]


def test_system_calls_are_filtered(probe: dict[str, Any]) -> None:
    assert probe["seccomp"] == "2"
    for call in ("mount", "unshare_user", "keyctl", "io_uring", "bpf", "userfaultfd"):
        assert probe[call] == [-1, "Operation not permitted"], call


def test_a_bot_takes_nothing_of_what_the_kernel_has_one_pool_of_for_all_users(probe: dict[str, Any]) -> None:
    taken = {name: result for name, result in probe["pools"].items() if "ermission denied" not in result}

    assert len(probe["pools"]) == 6
    assert [name for name, result in taken.items() if "Operation not permitted" not in result] == []


def test_a_bot_has_sockets_of_the_internet_alone(probe: dict[str, Any]) -> None:
    assert all(result.startswith("PermissionError") for result in probe["odd_sockets"]), probe["odd_sockets"]
    assert len(probe["odd_sockets"]) == 6
    assert not [result for result in probe["sockets"] if "Error" in str(result)]
    assert "Error" not in str(probe["socket_pair"])


def test_a_bot_has_no_raw_sockets(probe: dict[str, Any]) -> None:
    assert probe["raw_socket"].startswith("PermissionError")
    assert probe["packet_socket"].startswith("PermissionError")


# --- what it can write


@pytest.mark.parametrize(
    "place", ["write_code", "write_new_code", "write_root", "write_etc", "write_spec", "write_entry"]
)
def test_a_bot_writes_neither_its_code_nor_the_system(probe: dict[str, Any], place: str) -> None:
    assert probe[place].startswith(("OSError: [Errno 30]", "PermissionError"))


def test_a_bot_does_not_reach_the_file_for_its_outcome(probe: dict[str, Any]) -> None:
    assert len(probe["outcome"]) > 30
    assert [tried for tried in probe["outcome"].values() if not tried.startswith("PermissionError")] == []


# --- what it can see


def test_a_bot_sees_no_processes_but_its_own(probe: dict[str, Any]) -> None:
    # The bot, and the three processes of the init.
    assert len(probe["processes"]) == 4


def test_the_engines_socket_is_not_there(probe: dict[str, Any]) -> None:
    assert probe["engine_socket"] == [False, False]


def test_the_kernels_switches_are_closed(probe: dict[str, Any]) -> None:
    assert "Error" in probe["write_sysctl"]
    assert "Error" in probe["write_cgroup"]
    assert "Error" in probe["sysrq"]
    assert probe["kcore"] in ("0", "b''") or "Error" in probe["kcore"]
    assert probe["keys"] == "''" or "Error" in probe["keys"]
    assert probe["pressure"] == "[]" or "Error" in probe["pressure"]


def test_no_device_of_the_host_is_there(probe: dict[str, Any]) -> None:
    assert set(probe["devices"]) <= {
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero", "console",
    }  # fmt: skip
    assert probe["mknod"].startswith("PermissionError")


def test_environment_has_no_key_of_the_runtime(probe: dict[str, Any]) -> None:
    assert set(probe["environment"]) <= {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "HOSTNAME", "PYTHONDONTWRITEBYTECODE", "BOT_ID", "BOT_CONFIG",
        "ID", "CONFIG", "STATE_DIR",
        "ENTRYPOINT_TYPE", "SCRIPT_PATH", "CODE_MOUNT_DIR", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256",
        "PYTHON_PIP_VERSION", "PYTHON_SETUPTOOLS_VERSION", "PYTHON_GET_PIP_URL", "PYTHON_GET_PIP_SHA256", "LC_CTYPE",
    }  # fmt: skip


async def test_state_is_a_folder_of_the_bot_alone_with_a_limit(bots: BotContainers) -> None:
    source = """
import os
def main():
    about = os.stat("/state")
    with open("/state/x", "wb") as file:
        full = None
        try:
            for _ in range(4096):
                file.write(bytes(1 << 20))
        except OSError as error:
            full = error.errno
    return [about.st_uid == os.getuid(), oct(about.st_mode), full, os.environ["STATE_DIR"]]
"""
    outcome, output = await bots.run(source, limits=replace(bots.settings.limits, memory_bytes=256 * MIB))
    assert outcome.result == [True, "0o40755", errno.ENOSPC, "/state/.the0-state"], output


# --- secrets


async def test_the_config_is_not_to_be_inspected(bots: BotContainers, docker_engine: Engine) -> None:
    source = "import time\ndef main(id, config):\n print('up', flush=True)\n time.sleep(60)"
    container = await bots.runner.start(bots.executable(source, config={"apiKey": "s3cret-v4lue"}))
    await eventually(lambda: has_output(bots, container))
    inspected = json.dumps(await asked(docker_engine, f"/containers/{container.container_id}/json"))
    processes = json.dumps(await asked(docker_engine, f"/containers/{container.container_id}/top"))
    assert "s3cret-v4lue" not in inspected + processes
    assert not [line for line in await asyncio.to_thread(command_lines) if b"s3cret-v4lue" in line]
    assert (bots.settings.temp_dir / "runs").stat().st_mode & 0o077 == 0
    assert "s3cret" not in repr(bots.executable(source, config={"apiKey": "s3cret-v4lue"}))


def command_lines() -> list[bytes]:
    """Of all processes of this host; those that end meanwhile are left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
