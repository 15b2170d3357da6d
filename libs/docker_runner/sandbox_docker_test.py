"""What a bot can do and cannot, tried by hostile bots on a real engine. SANDBOX.md names these tests, row by row."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest
import pytest_asyncio

from libs.docker_runner.container import EndReason, ManagedContainer
from libs.docker_runner.executable import MIB, Limits, Network
from libs.docker_runner.keepalive import KeepaliveFile
from tests.support.bot_containers import BotContainers, bot_containers
from tests.support.docker import remove_containers
from tests.support.eventually import eventually
from tools.engine.ensure import Engine

TIGHT = Limits(memory_bytes=128 * MIB, tmp_bytes=16 * MIB, pids=48, open_files=128, result_bytes=MIB)

# Tries everything that needs no second party, and returns what came of each.
PROBE = r"""
import ctypes, os, resource, socket, subprocess

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
        "write_entry": tried(lambda: write("/run/the0/entry/supervisor.py")),
        "write_sysctl": tried(lambda: write("/proc/sys/kernel/panic", "1")),
        "write_cgroup": tried(lambda: write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "-1")),
        "sysrq": tried(lambda: write("/proc/sysrq-trigger", "b")),
        "kcore": tried(lambda: os.path.getsize("/proc/kcore") and open("/proc/kcore", "rb").read(1)),
        "keys": tried(lambda: open("/proc/keys").read(10)),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "engine_socket": [os.path.exists(path) for path in ("/var/run/docker.sock", "/run/docker.sock")],
        "devices": sorted(os.listdir("/dev")),
        "mknod": tried(lambda: os.mknod("/tmp/sda", 0o660 | 0o060000, os.makedev(8, 0))),
        "mount": syscall(165, b"none", b"/tmp", b"tmpfs", 0, None),
        "unshare_user": syscall(272, 0x10000000),
        "keyctl": syscall(250, 0, -3, 0),
        "raw_socket": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
        "packet_socket": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "tmp": fill("/tmp/big"),
        "shm": fill("/dev/shm/big"),
        "tmp_again": tried(lambda: write("/tmp/small")),
        "outcome": fill("/run/the0/outcome"),
        "inodes": many_files(),
        "forks": many_forks(),
        "open_files": many_open(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "environment": dict(os.environ),
    }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_bots(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    scope = f"test-{uuid.uuid4().hex[:12]}"
    try:
        async with bot_containers(tmp_path_factory.mktemp("probe"), scope, docker_engine.url) as bots:
            yield bots
    finally:
        await asyncio.to_thread(remove_containers, docker_engine, scope)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def probe(module_bots: BotContainers) -> dict[str, Any]:
    outcome, output = await module_bots.run(PROBE, limits=TIGHT, config={"key": "s3cret"})
    assert outcome.succeeded, (outcome, output)
    assert isinstance(outcome.result, dict)
    return outcome.result


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url) as bots:
        yield bots


# --- who it is


def test_a_bot_is_no_root(probe: dict[str, Any]) -> None:
    assert probe["uid"] == [10001, 10001, []] or probe["uid"] == [10001, 10001, [10001]]
    assert set(probe["capabilities"]) == {"0000000000000000"}


def test_a_bot_cannot_become_root(probe: dict[str, Any]) -> None:
    assert probe["setuid"].startswith("PermissionError")
    assert probe["no_new_privileges"] == "1"
    assert "b'0" not in probe["su"]


def test_system_calls_are_filtered(probe: dict[str, Any]) -> None:
    assert probe["seccomp"] == "2"
    for call in ("mount", "unshare_user", "keyctl"):
        assert probe[call] == [-1, "Operation not permitted"], call


def test_a_bot_has_no_raw_sockets(probe: dict[str, Any]) -> None:
    assert probe["raw_socket"].startswith("PermissionError")
    assert probe["packet_socket"].startswith("PermissionError")


# --- what it can write


@pytest.mark.parametrize(
    "place", ["write_code", "write_new_code", "write_root", "write_etc", "write_spec", "write_entry"]
)
def test_a_bot_writes_neither_its_code_nor_the_system(probe: dict[str, Any], place: str) -> None:
    assert probe[place].startswith(("OSError: [Errno 30]", "PermissionError"))


def test_a_full_tmp_is_an_error_and_no_death(probe: dict[str, Any]) -> None:
    assert probe["tmp"]["error"] == "No space left on device"
    assert probe["tmp"]["written"] <= 16 * MIB
    assert probe["tmp_again"] == "1"


def test_shared_memory_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["shm"]["error"] == "No space left on device"
    assert probe["shm"]["written"] <= 16 * MIB


def test_the_file_for_the_result_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["outcome"]["error"] == "File too large"
    assert probe["outcome"]["written"] <= 17 * MIB


def test_the_number_of_files_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["inodes"]["error"] == "No space left on device"
    assert probe["inodes"]["made"] < 5000


# --- what it can use up


def test_a_fork_bomb_is_bounded(probe: dict[str, Any]) -> None:
    assert probe["forks"]["error"] == "Resource temporarily unavailable"
    assert probe["forks"]["made"] < 48


def test_open_files_are_bounded(probe: dict[str, Any]) -> None:
    assert probe["open_files"]["error"] == "Too many open files"
    assert probe["open_files"]["open"] < 128


def test_no_core_is_dumped(probe: dict[str, Any]) -> None:
    assert probe["core"] == [0, 0]


async def test_a_real_fork_bomb_ends_with_its_run(bots: BotContainers) -> None:
    source = "import os\ndef main(id, config):\n while True:\n  try: os.fork()\n  except OSError: pass"
    outcome, _ = await bots.run(source, limits=TIGHT, timeout_seconds=3.0)
    assert outcome.ended.reason in (EndReason.TIMEOUT, EndReason.OOM)
    assert await bots.list() == []


async def test_a_memory_hog_is_killed_and_gets_no_swap(bots: BotContainers) -> None:
    source = "def main(id, config):\n hog = []\n while True: hog.append(bytearray(1 << 20))"
    outcome, _ = await bots.run(source, limits=TIGHT)
    assert outcome.ended.reason is EndReason.OOM
    assert (outcome.ended.peak_memory_bytes or 0) <= TIGHT.memory_bytes


async def test_a_node_memory_hog_is_killed(bots: BotContainers) -> None:
    source = "exports.main = () => { const hog = []; while (true) hog.push(Buffer.alloc(1 << 20, 1)) }"
    outcome, _ = await bots.run(source, runtime="nodejs20", limits=TIGHT)
    assert outcome.ended.reason is EndReason.OOM


async def test_a_bot_gets_no_more_cpu_than_its_quota(bots: BotContainers) -> None:
    source = "import time\ndef main(id, config):\n end = time.time() + 3\n while time.time() < end: pass"
    outcome, _ = await bots.run(source, limits=Limits(cpus=0.25))
    assert outcome.ended.cpu_seconds is not None
    assert outcome.ended.cpu_seconds < 0.25 * 3 + 0.5


async def test_a_log_flooder_is_slowed_down(bots: BotContainers) -> None:
    limits = Limits(output_bytes_per_second=256 * 1024, output_burst_bytes=256 * 1024)
    outcome, output = await bots.run("def main(i, c):\n while 1: print('x' * 999)", limits=limits, timeout_seconds=3.0)
    assert outcome.ended.reason is EndReason.TIMEOUT
    assert 256 * 1024 < len(output) < 6 * 256 * 1024


async def test_what_a_bot_leaves_behind_ends_with_it(bots: BotContainers) -> None:
    source = """
import os, time
def main(id, config):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                print("still here", flush=True)
                time.sleep(0.1)
        os._exit(0)
    time.sleep(0.5)
    return 1
"""
    outcome, output = await bots.run(source)
    assert outcome.succeeded
    assert output.splitlines()[-1] == "1"


async def test_a_bot_that_kills_its_supervisor_ends_too(bots: BotContainers) -> None:
    source = "import os, time\ndef main(id, config):\n os.kill(os.getppid(), 9)\n time.sleep(60)"
    outcome, _ = await bots.run(source, timeout_seconds=20.0)
    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.KILLED, 137)


# --- what it can see


def test_a_bot_sees_no_processes_but_its_own(probe: dict[str, Any]) -> None:
    assert 3 <= len(probe["processes"]) <= 6


def test_the_engines_socket_is_not_there(probe: dict[str, Any]) -> None:
    assert probe["engine_socket"] == [False, False]


def test_the_kernels_switches_are_closed(probe: dict[str, Any]) -> None:
    assert "Error" in probe["write_sysctl"]
    assert "Error" in probe["write_cgroup"]
    assert "Error" in probe["sysrq"]
    assert probe["kcore"] in ("0", "b''") or "Error" in probe["kcore"]
    assert probe["keys"] == "''" or "Error" in probe["keys"]


def test_no_device_of_the_host_is_there(probe: dict[str, Any]) -> None:
    assert set(probe["devices"]) <= {
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero", "console",
    }  # fmt: skip
    assert probe["mknod"].startswith("PermissionError")


def test_no_key_of_ours_is_in_the_environment(probe: dict[str, Any]) -> None:
    assert set(probe["environment"]) <= {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "HOSTNAME", "PYTHONDONTWRITEBYTECODE", "BOT_ID", "BOT_CONFIG",
        "ENTRYPOINT_TYPE", "SCRIPT_PATH", "CODE_MOUNT_DIR", "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256",
        "PYTHON_PIP_VERSION", "PYTHON_SETUPTOOLS_VERSION", "PYTHON_GET_PIP_URL", "PYTHON_GET_PIP_SHA256", "LC_CTYPE",
    }  # fmt: skip


# --- the network


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


@pytest.fixture(params=[True, False], ids=["default-bridge", "own-bridge"])
def default_bridge(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def networked(
    tmp_path: Path, scope: str, docker_engine: Engine, default_bridge: bool
) -> AsyncIterator[BotContainers]:
    """Bots on either of the two networks."""
    async with bot_containers(tmp_path, scope, docker_engine.url, default_bridge=default_bridge) as bots:
        yield bots


async def test_a_bot_cannot_reach_another_bots_port(networked: BotContainers, docker_engine: Engine) -> None:
    bots = networked
    server = await bots.runner.start(bots.executable(SERVE, "server"))
    await eventually(lambda: has_output(bots, server), within_seconds=20)
    address = (await raw(docker_engine, f"/containers/{server.container_id}/json"))["NetworkSettings"]["Networks"]
    host = next(iter(address.values()))["IPAddress"]
    assert host
    outcome, _ = await bots.run(CONNECT, id="client", config={"host": host, "port": 8000})
    assert outcome.result in ("TimeoutError", "ConnectionRefusedError", "OSError")


async def has_output(bots: BotContainers, container: ManagedContainer) -> bool:
    return bool([piece async for piece in bots.runner.logs(container)])


async def raw(engine: Engine, path: str) -> Any:
    connector = aiohttp.UnixConnector(engine.url.removeprefix("unix://"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://docker" + path) as answer:
        return await answer.json()


# The cloud's metadata service, as a host would see it: an address of the host's own, which is the hardest case.
METADATA_SERVICE = """
import http.server, os, signal, socket, struct, sys
sys.path.insert(0, "/guard")
import network_guard as netlink
header = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 254, socket.if_nametoindex("lo"))
body = header + netlink.pack([(2, socket.inet_aton("169.254.169.254"))])
def address(kind, flags):
    with netlink.netlink(0) as connection:
        try:
            netlink.send(connection, [netlink.message(kind, netlink.REQUEST | netlink.ACK | flags, 1, body)], acks=1)
        except FileExistsError:
            pass
address(20, netlink.CREATE)
def end(*_):
    address(21, 0)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
server = http.server.HTTPServer(("169.254.169.254", 18080), http.server.SimpleHTTPRequestHandler)
print("listening", flush=True)
server.serve_forever()
"""


@pytest_asyncio.fixture(loop_scope="session")
async def metadata_service(scope: str, docker_engine: Engine) -> AsyncIterator[int]:
    client = docker.DockerClient(base_url=docker_engine.url)
    guard = Path(__file__).parent / "entrypoints" / "guard"

    def serve() -> Any:
        return client.containers.run(
            "python:3.11-slim",
            ["python3", "-c", METADATA_SERVICE],
            network_mode="host",
            cap_add=["NET_ADMIN"],
            volumes={str(guard): {"bind": "/guard", "mode": "ro"}},
            labels={"runtime.scope": scope},
            detach=True,
        )

    container = await asyncio.to_thread(serve)
    try:
        await eventually(lambda: asyncio.to_thread(lambda: b"listening" in container.logs()))
        yield 18080
    finally:
        await asyncio.to_thread(container.stop)
        client.close()


async def test_a_bot_cannot_reach_the_metadata_address(
    networked: BotContainers, docker_engine: Engine, metadata_service: int
) -> None:
    def unguarded() -> bytes:
        probe = f"import socket; socket.create_connection(('169.254.169.254', {metadata_service}), 5); print('reached')"
        client = docker.DockerClient(base_url=docker_engine.url)
        try:
            output = client.containers.run("python:3.11-slim", ["python3", "-c", probe], remove=True)
        finally:
            client.close()
        return bytes(output)

    assert await asyncio.to_thread(unguarded) == b"reached\n"
    outcome, _ = await networked.run(CONNECT, config={"host": "169.254.169.254", "port": metadata_service})
    assert outcome.result == "TimeoutError"


async def test_without_a_network_there_is_only_the_loopback(bots: BotContainers) -> None:
    source = "import socket\ndef main(id, config): return [name for _, name in socket.if_nameindex()]"
    executable = bots.executable(source)
    placement = type(executable.placement)(executable.placement.image, Network.NONE)
    outcome, _ = await bots.run(source, placement=placement)
    assert [name for name in outcome.result if not name.startswith(("tunl", "sit", "ip6", "gre", "erspan"))] == ["lo"]  # type: ignore[attr-defined]


# --- secrets


async def test_the_config_is_not_to_be_inspected(bots: BotContainers, docker_engine: Engine) -> None:
    source = "import time\ndef main(id, config):\n print('up', flush=True)\n time.sleep(60)"
    container = await bots.runner.start(bots.executable(source, config={"apiKey": "s3cret-v4lue"}))
    await eventually(lambda: has_output(bots, container), within_seconds=20)
    inspected = json.dumps(await raw(docker_engine, f"/containers/{container.container_id}/json"))
    processes = json.dumps(await raw(docker_engine, f"/containers/{container.container_id}/top"))
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


# --- the dead-man's switch


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_a_bot_whose_worker_is_gone_ends_with_the_lease(
    bots: BotContainers, tmp_path: Path, runtime: str
) -> None:
    await bots.runner.prepare()
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() + 5.0)
    until = time.time() + 5.0
    source = {
        "python3.11": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ndef main(i, c): time.sleep(60)",
        "nodejs20": "process.on('SIGTERM', () => {}); exports.main = () => new Promise((r) => setTimeout(r, 60000))",
    }[runtime]
    outcome, output = await bots.run(source, runtime=runtime, keepalive=keepalive.folder)
    assert "not starting" not in output
    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.LEASE_LOST, 75)
    assert outcome.ended.finished_at is not None
    assert -0.5 < outcome.ended.finished_at.timestamp() - until < 0.8


async def test_a_bot_cannot_renew_its_own_lease(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() + 30.0)
    source = "def main(id, config):\n open('/run/the0/keepalive/lease', 'w')"
    outcome, _ = await bots.run(source, keepalive=keepalive.folder)
    assert "Read-only file system" in (outcome.result_error or "")


async def test_a_container_that_starts_after_its_lease_never_runs_the_bot(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive")
    keepalive.refresh(time.monotonic() - 1.0)
    outcome, output = await bots.run("def main(id, config): print('ran')", keepalive=keepalive.folder)
    assert outcome.ended.reason is EndReason.LEASE_LOST
    assert "ran\n" not in output
