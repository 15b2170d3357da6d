"""The init's filter of system calls, alone: engines differ in what theirs refuse, and some have none."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.executable import Limits, Network
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.rigs.changed_container import is_over, start_changed
from tools.engine.ensure import Engine

# System calls by their numbers on x86-64; each with arguments that the kernel takes from everybody, or from the root of
# a namespace, which a bot would be in one that it made.
CALLS = {
    **{
        f"unshare {flag:#x}": (272, flag)
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
    },
    **{
        f"clone {flag:#x}": (56, flag | 17, 0, 0, 0, 0)
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    },
    "setns": (308, 0, 0),
    "mount": (165, b"none", b"/tmp", b"tmpfs", 0, None),
    "umount2": (166, b"/tmp", 2),
    "pivot_root": (155, b"/tmp", b"/tmp"),
    "fsopen": (430, b"tmpfs", 0),
    "fspick": (433, -100, b"/tmp", 0),
    "open_tree": (428, -100, b"/tmp", 0),
    "open_tree_attr": (467, -100, b"/tmp", 0, None, 0),
    "move_mount": (429, -100, b"/tmp", -100, b"/state", 0),
    "mount_setattr": (442, -100, b"/tmp", 0, None, 0),
    "name_to_handle_at": (303, -100, b"/tmp", bytes(64), bytes(8), 0),
    "open_by_handle_at": (304, -100, bytes(64), 0),
    "fanotify_init": (300, 0x200, 0),
    "modify_ldt": (154, 0, bytes(16), 16),
    "huge mmap": (9, 0, 2 << 20, 3, 0x40022, -1, 0),
    "huge memfd": (319, b"x", 4),
    "huge shmget": (29, 0, 2 << 20, 0o4600),
    "io_uring_setup": (425, 8, bytes(120)),
    "bpf": (321, 0, bytes(128), 128),
    "perf_event_open": (298, bytes(128), 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "keyctl": (250, 0, -3, 0),
    "add_key": (248, b"user", b"a", b"b", 1, -3),
    "request_key": (249, b"user", b"a", None, -3),
}
CALLER = """
import ctypes, errno, os, socket, subprocess, threading
CALLS = %r
libc = ctypes.CDLL(None, use_errno=True)
def called(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    return errno.errorcode.get(ctypes.get_errno(), "done")
def main():
    refused = {name: called(*call) for name, call in CALLS.items()}
    # What takes the place of clone3, and of pages of the pool.
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()
    usual = [called(435, bytes(64), 64), subprocess.run(["true"]).returncode, os.memfd_create("x") > 0]
    return refused, usual
""" % CALLS  # noqa: UP031 - the text has braces


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def test_without_the_engines_filter_namespaces_mounts_and_huge_pages_are_refused_and_processes_start(
    bots: BotContainers, docker_engine: Engine
) -> None:
    executable = bots.executable(CALLER, limits=Limits(memory_bytes=128 * MIB))
    container = await start_changed(
        bots,
        docker_engine.url,
        executable,
        lambda body: body["HostConfig"]["SecurityOpt"].append("seccomp=unconfined"),
    )
    await eventually(lambda: is_over(bots), within_seconds=60)
    output = b"".join([piece.data async for piece in bots.runner.logs(container)]).decode()
    await bots.runner.remove(container)

    refused, usual = json.loads(output.splitlines()[-1])
    assert {name: came for name, came in refused.items() if came != "EPERM"} == {}
    assert refused.keys() == CALLS.keys()
    assert usual == ["ENOSYS", 0, True]
