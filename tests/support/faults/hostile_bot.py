"""A bot that tries every attack that needs no second party, and views of containers, for tests of the sandbox."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.executable import Limits
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.docker import remove_containers
from tools.engine.ensure import Engine

TIGHT = Limits(memory_bytes=128 * MIB, tmp_bytes=16 * MIB, pids=48, open_files=128, result_bytes=MIB)

# Returns the result of each attempt.
PROBE = r"""
import ctypes, os, resource, socket, struct, subprocess

def tried(action):
    try:
        return repr(action())
    except BaseException as error:
        return type(error).__name__ + ": " + str(error)

def write(path, data="x"):
    with open(path, "w") as file:
        return file.write(data)

def fill(path, limit=1 << 30):
    written, fd = 0, os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while written < limit:
            written += os.write(fd, b"x" * (1 << 16))
    except OSError as error:
        return {"written": written, "error": error.strerror}
    finally:
        os.close(fd)
        if path.startswith("/tmp") or path.startswith("/dev/shm"):
            os.unlink(path)

def many_files():
    os.mkdir("/tmp/many")
    made = 0
    try:
        for made in range(100000):
            open(f"/tmp/many/{made}", "w").close()
    except OSError as error:
        return {"made": made, "error": error.strerror}
    finally:
        subprocess.run(["rm", "-rf", "/tmp/many"])

def many_forks():
    made = []
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                import time
                time.sleep(60)
            made.append(pid)
    except OSError as error:
        return {"made": len(made), "error": error.strerror}
    finally:
        for pid in made:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

def many_open():
    files = []
    try:
        while True:
            files.append(open("/dev/null"))
    except OSError as error:
        return {"open": len(files), "error": error.strerror}
    finally:
        for file in files:
            file.close()

def status():
    return dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)

def syscall(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(number, *arguments), os.strerror(ctypes.get_errno())

X86 = os.uname().machine == "x86_64"
# A program of one instruction that takes every packet, or permits every call.
PROGRAM = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000))
FILTER = struct.pack("HxxxxxxQ", 1, ctypes.addressof(PROGRAM))

def attached(option):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, option, FILTER)

# What the kernel has one pool of for all users of a host. None of them is kept.
POOLS = {
    "filter of a socket": lambda: attached(26),
    "filter of a group of sockets": lambda: attached(51),
    "filter of calls": lambda: called(317 if X86 else 277, 1, 0, ctypes.create_string_buffer(FILTER)),
    "filter of calls by prctl": lambda: called(157 if X86 else 167, 22, 2, ctypes.create_string_buffer(FILTER)),
    "asynchronous input and output": lambda: called(206 if X86 else 0, 1, ctypes.byref(ctypes.c_ulong(0))),
    "terminal": lambda: os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)),
}
def called(number, *arguments):
    result, reason = syscall(number, *arguments)
    if result < 0:
        raise OSError(reason)

# By its path, and by the files of the process that has it open.
OUTCOMES = ["/run/the0/private/outcome", "/proc/1/root/run/the0/private/outcome"]
OUTCOMES += [f"/proc/1/fd/{number}" for number in range(32)]

def main(id, config):
    fields = status()
    return {
        "uid": [os.getuid(), os.getgid(), os.getgroups()],
        "capabilities": [fields[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")],
        "no_new_privileges": fields["NoNewPrivs"].strip(),
        "seccomp": fields["Seccomp"].strip(),
        "setuid": tried(lambda: os.setuid(0)),
        "su": tried(lambda: subprocess.run(["su", "-c", "id -u"], capture_output=True, timeout=5).stdout),
        "write_code": tried(lambda: write("/bot/main.py")),
        "write_new_code": tried(lambda: write("/bot/new.py")),
        "write_root": tried(lambda: write("/x")),
        "write_etc": tried(lambda: write("/etc/passwd")),
        "write_spec": tried(lambda: write("/run/the0/spec/spec.json")),
        "write_entry": tried(lambda: write("/run/the0/entry/start.py")),
        "write_sysctl": tried(lambda: write("/proc/sys/kernel/panic", "1")),
        "write_cgroup": tried(lambda: write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "-1")),
        "sysrq": tried(lambda: write("/proc/sysrq-trigger", "b")),
        "kcore": tried(lambda: os.path.getsize("/proc/kcore") and open("/proc/kcore", "rb").read(1)),
        "keys": tried(lambda: open("/proc/keys").read(10)),
        "pressure": tried(lambda: os.listdir("/proc/pressure")),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "engine_socket": [os.path.exists(path) for path in ("/var/run/docker.sock", "/run/docker.sock")],
        "devices": sorted(os.listdir("/dev")),
        "mknod": tried(lambda: os.mknod("/tmp/sda", 0o660 | 0o060000, os.makedev(8, 0))),
        "mount": syscall(165, b"none", b"/tmp", b"tmpfs", 0, None),
        "unshare_user": syscall(272, 0x10000000),
        "keyctl": syscall(250, 0, -3, 0),
        "raw_socket": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
        "packet_socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "io_uring": syscall(425, 8, bytes(120)),
        "bpf": syscall(321, 0, bytes(128), 128),
        "userfaultfd": syscall(323, 1),
        # AF_VSOCK, AF_ALG, netlink of netfilter and of generic families, SCTP twice.
        "odd_sockets": [
            tried(lambda: socket.socket(*odd).close())
            for odd in ((40, 1), (38, 5), (16, 3, 12), (16, 3, 16), (2, 1, 132), (2, 5))
        ],
        "sockets": [
            tried(lambda: socket.socket(*usual).close())
            for usual in ((1, 1), (2, 1), (2, 2), (10, 1), (10, 2), (2, 2, 1), (16, 3, 0))
        ],
        "socket_pair": tried(lambda: [end.close() for end in socket.socketpair()]),
        "pools": {name: tried(action) for name, action in POOLS.items()},
        "tmp": fill("/tmp/big"),
        "shm": fill("/dev/shm/big"),
        "tmp_again": tried(lambda: write("/tmp/small")),
        "outcome": {place: tried(lambda: os.open(place, os.O_WRONLY)) for place in OUTCOMES},
        "inodes": many_files(),
        "forks": many_forks(),
        "open_files": many_open(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "environment": dict(os.environ),
    }
"""

# A target bot and an attacking bot.
SERVE = """
import http.server, threading
def main(id, config):
    server = http.server.HTTPServer(("0.0.0.0", 8000), http.server.SimpleHTTPRequestHandler)
    print("listening", flush=True)
    server.serve_forever()
"""
CONNECT = """
import socket
def main(id, config):
    try:
        socket.create_connection((config["host"], config["port"]), timeout=2).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def probe(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[dict[str, Any]]:
    """Return the result of each attempt, within :data:`TIGHT` limits."""
    scope = f"test-{uuid.uuid4().hex[:12]}"
    try:
        async with bot_containers(tmp_path_factory.mktemp("probe"), scope, docker_engine.url) as bots:
            outcome, output = await bots.run(PROBE, limits=TIGHT, config={"key": "s3cret"})
        assert outcome.succeeded, (outcome, output)
        assert isinstance(outcome.result, dict)
        yield outcome.result
    finally:
        await asyncio.to_thread(remove_containers, docker_engine, scope)


async def has_output(bots: BotContainers, container: ManagedContainer) -> bool:
    """Whether it has printed anything yet."""
    return bool([piece async for piece in bots.runner.logs(container)])


async def asked(engine: Engine, path: str) -> Any:
    """Return the engine's own answer to a GET of *path*."""
    connector = aiohttp.UnixConnector(engine.url.removeprefix("unix://"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://docker" + path) as answer:
        return await answer.json()


async def address_of(engine: Engine, container: ManagedContainer) -> str:
    """Return its address in the bots' network."""
    found = await asked(engine, f"/containers/{container.container_id}/json")
    host = str(next(iter(found["NetworkSettings"]["Networks"].values()))["IPAddress"])
    assert host
    return host
