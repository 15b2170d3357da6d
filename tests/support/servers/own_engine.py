"""A private Docker engine of a test, which may restart and kill it.

It has its own network namespace, and so its own firewall, and its own mounts, which end with it.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.faults.full_disk import fill_disk, free_disk
from tools.debian.packages import ensure_unpacked
from tools.engine.ensure import Engine
from tools.engine.probe import why_not

GVISOR = "runsc"
# Ptrace needs no hardware, and a sandbox without a network and control groups works on every machine.
_GVISOR_ARGUMENTS = ["--platform=ptrace", "--network=none", "--ignore-cgroups"]

GVISOR_IN_GROUPS = "runsc-in-groups"
"""gVisor with control groups, as deployments have it."""

GVISOR_AS_DEPLOYED = "runsc-as-deployed"
"""gVisor with control groups and its own network, which needs a program that is not older than the kernel."""

_CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
[debug]
level = "warn"
"""
# Both end with a killed test run (PR_SET_PDEATHSIG). The loopback of a new network namespace is down
# (SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP).
_LAUNCH = """
import ctypes, fcntl, os, signal, socket, struct, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
with socket.socket() as any:
    flags = struct.unpack("16sH", fcntl.ioctl(any, 0x8913, struct.pack("16sH14x", b"lo", 0))[:18])[1]
    fcntl.ioctl(any, 0x8914, struct.pack("16sH14x", b"lo", flags | 1))
os.execvp(sys.argv[1], sys.argv[1:])
"""


class OwnEngine:
    """`dockerd` with its `containerd`, which keeps running when the former restarts, as on usual machines.

    Attributes:
        url: for DOCKER_HOST; the same after a restart.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self._containerd: asyncio.subprocess.Process | None = None
        self._dockerd: asyncio.subprocess.Process | None = None

    async def open(self, gvisor: Path | None, *, live_restore: bool = False) -> None:
        """Start both; return when the engine answers."""
        self._write_config(gvisor, live_restore)
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder))
        (self.folder / "data").mkdir()
        # In memory, for fast loading and removal of images. Older engines derive their id from a key, which is
        # stored there as well: otherwise two engines of one machine would have the same id.
        in_memory = 'mount -t tmpfs tmpfs "$0" && mkdir -p /etc/docker && mount -t tmpfs tmpfs /etc/docker && exec "$@"'
        self._containerd = await self._launch(
            "unshare", "--net", "--mount", "sh", "-c", in_memory, str(self.folder / "data"), *self._containerd_command
        )
        await eventually((self.folder / "containerd.sock").exists)
        await self.start()

    async def start(self) -> None:
        """Start the engine, and wait for it."""
        assert self._containerd is not None
        inside = ["nsenter", "--target", str(self._containerd.pid), "--net", "--mount", sys.executable, "-c", _LAUNCH]
        options = {
            "host": self.url,
            "config-file": f"{self.folder}/daemon.json",
            "data-root": f"{self.folder}/data",
            "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/docker.pid",
            "containerd": f"{self.folder}/containerd.sock",
        }
        self._dockerd = await self._launch(
            *inside, "dockerd", *(word for name, value in options.items() for word in (f"--{name}", value))
        )
        await eventually(self._answers)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the engine with SIGTERM; without live-restore it ends its containers first."""
        assert self._dockerd is not None
        if self._dockerd.returncode is None:
            self._dockerd.send_signal(number)
            await asyncio.wait_for(self._dockerd.wait(), 60)

    def freeze(self, *, containerd: bool = False) -> None:
        """Freeze the engine, perhaps with its *containerd*: it answers nothing, its containers keep running."""
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGSTOP)
        if containerd:
            self.freeze_containerd()

    def freeze_containerd(self) -> None:
        """Freeze containerd: the engine answers, and starts and stops nothing."""
        assert self._containerd is not None
        self._containerd.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo freeze() and freeze_containerd(). May be repeated."""
        for process in (self._containerd, self._dockerd):
            assert process is not None
            process.send_signal(signal.SIGCONT)

    async def kill_containerd(self) -> None:
        """Kill containerd: running containers keep running, and none can be started or stopped."""
        assert self._containerd is not None
        self._containerd.kill()
        await self._containerd.wait()

    async def start_containerd(self) -> None:
        """Start containerd after kill_containerd(), in the namespaces of the engine, which must run."""
        assert self._dockerd is not None
        self._containerd = await self._launch(
            "nsenter", "--target", str(self._dockerd.pid), "--net", "--mount", *self._containerd_command
        )

    async def fill_disk(self) -> None:
        """Leave no free byte on the disk with the engine's data."""
        data, inside = self.folder / "data", self._inside_mounts
        seen_at = Path(f"/proc/{inside[2]}/root{data}")
        await asyncio.to_thread(fill_disk, data, inside=inside, seen_at=seen_at)

    async def free_disk(self) -> None:
        """Undo fill_disk(). May be repeated."""
        await asyncio.to_thread(free_disk, self.folder / "data", inside=self._inside_mounts)

    async def keep_containers(self, live_restore: bool) -> None:
        """Set whether containers keep running while the engine is down; without a restart."""
        config = json.loads((self.folder / "daemon.json").read_text())
        (self.folder / "daemon.json").write_text(json.dumps({**config, "live-restore": live_restore}))
        assert self._dockerd is not None
        self._dockerd.send_signal(signal.SIGHUP)
        await eventually(lambda: self._reloaded(live_restore))

    async def inside(self, *command: str) -> str:
        """Return the output of *command* in the engine's network namespace."""
        assert self._containerd is not None
        process = await asyncio.create_subprocess_exec(
            "nsenter", "--target", str(self._containerd.pid), "--net", *command,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, command
        return output.decode()

    @asynccontextmanager
    async def hiding(self, folder: Path) -> AsyncIterator[None]:
        """Mount an empty file system in place of *folder*, for the engine."""
        await self._in_mounts("mount", "-t", "tmpfs", "tmpfs", str(folder))
        try:
            yield
        finally:
            await self._in_mounts("umount", "-l", str(folder))

    def mounts(self) -> list[str]:
        """The mount points of its containers' file systems; those that the machine had at its start are not its own."""
        assert self._containerd is not None
        lines = Path(f"/proc/{self._containerd.pid}/mounts").read_text().splitlines()
        points = [line.split()[1] for line in lines if line.startswith(("overlay", "shm"))]
        return [point for point in points if point.startswith(f"{self.folder}/data/")]

    async def containers(self) -> list[dict[str, Any]]:
        """Return the engine's summaries of all containers, running or not."""
        return await asyncio.to_thread(self._containers)

    async def remove_containers(self) -> None:
        """Remove all containers, running or not: tests that count them start without any."""
        await asyncio.to_thread(self._remove_containers)

    async def process(self, container_id: str) -> Path:
        """Return the /proc folder of a running container's first process; it vanishes when the process ends."""
        return Path(f"/proc/{await asyncio.to_thread(self._pid, container_id)}")

    async def networks(self) -> set[str]:
        """Return the names of all networks."""
        return await asyncio.to_thread(self._networks)

    @asynccontextmanager
    async def beside(self, *command: str) -> AsyncIterator[None]:
        """Return *command* wrapped to run in the engine's network namespace."""
        assert self._containerd is not None
        process = await self._launch(
            "nsenter", "--target", str(self._containerd.pid), "--net", sys.executable, "-c", _LAUNCH, *command
        )
        try:
            yield
            assert process.returncode is None, self.end_of_log()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """End both and remove all their data."""
        if self._dockerd is not None:
            if self._dockerd.returncode is None and await self._answers():
                await asyncio.to_thread(self._remove_containers)
            await self.stop()
        if self._containerd is not None:
            self._containerd.terminate()
            await asyncio.wait_for(self._containerd.wait(), 60)
        await asyncio.to_thread(shutil.rmtree, self.folder)

    def end_of_log(self) -> str:
        """Return the last lines of both logs."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-30:])

    @property
    def _containerd_command(self) -> list[str]:
        return [sys.executable, "-c", _LAUNCH, "containerd", "--config", str(self.folder / "containerd.toml")]

    @property
    def _inside_mounts(self) -> list[str]:
        assert self._containerd is not None
        return ["nsenter", "--target", str(self._containerd.pid), "--mount"]

    async def _in_mounts(self, *command: str) -> None:
        process = await asyncio.create_subprocess_exec(*self._inside_mounts, *command)
        assert await process.wait() == 0, command

    async def _launch(self, *command: str) -> asyncio.subprocess.Process:
        with (self.folder / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def _answers(self) -> bool:
        assert self._dockerd is not None
        assert self._dockerd.returncode is None, self.end_of_log()
        return await asyncio.to_thread(why_not, self.url) is None

    def _write_config(self, gvisor: Path | None, live_restore: bool) -> None:
        arguments = {GVISOR: _GVISOR_ARGUMENTS, GVISOR_IN_GROUPS: _GVISOR_ARGUMENTS[:2], GVISOR_AS_DEPLOYED: []}
        runtimes = {name: {"path": str(gvisor), "runtimeArgs": given} for name, given in arguments.items() if gvisor}
        config = {"runtimes": runtimes, "live-restore": live_restore}
        (self.folder / "daemon.json").write_text(json.dumps(config))

    async def _reloaded(self, live_restore: bool) -> bool:
        return await asyncio.to_thread(self._setting, "LiveRestoreEnabled") is live_restore

    def _setting(self, name: str) -> object:
        client = docker.DockerClient(base_url=self.url)
        try:
            return client.info()[name]
        finally:
            client.close()

    def _containers(self) -> list[dict[str, Any]]:
        client = docker.APIClient(base_url=self.url)
        try:
            return list(client.containers(all=True))
        finally:
            client.close()

    def _pid(self, container_id: str) -> int:
        client = docker.APIClient(base_url=self.url)
        try:
            return int(client.inspect_container(container_id)["State"]["Pid"])
        finally:
            client.close()

    def _networks(self) -> set[str]:
        client = docker.APIClient(base_url=self.url)
        try:
            return {network["Name"] for network in client.networks()}
        finally:
            client.close()

    def _remove_containers(self) -> None:
        client = docker.DockerClient(base_url=self.url, timeout=60)
        try:
            # Helpers of workers remove themselves.
            for container in client.containers.list(all=True, ignore_removed=True):
                with suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)
        finally:
            client.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def private_engine(docker_engine: Engine) -> AsyncIterator[OwnEngine]:
    """A private engine, to be passed on running. It has no containers except the test's."""
    async with own_engine(docker_engine) as engine:
        yield engine


@asynccontextmanager
async def own_engine(
    machine: Engine, *, images: Sequence[str] = ("python:3.11-slim", "node:20-alpine"), gvisor: bool | Path = True
) -> AsyncIterator[OwnEngine]:
    """An engine with *images* of the *machine*'s engine, and with Debian's gVisor, or that program, as its runtimes."""
    require_root()
    # The socket's path must be short.
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="the0-engine-")))
    try:
        await engine.open(await ensure_unpacked(GVISOR, GVISOR) if gvisor is True else gvisor or None)
        await _copy_images(machine.url, engine.url, images)
        yield engine
    finally:
        await engine.close()


def require_root() -> None:
    """Skip the test, or fail it in CI, where no engine of its own can be started."""
    if os.geteuid() != 0 or shutil.which("containerd") is None or shutil.which("dockerd") is None:
        reason = "an engine of the test's own needs root, and Docker on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


async def _copy_images(source: str, target: str, names: Sequence[str]) -> None:
    # In one archive, so that shared layers are copied once.
    wanted = [("names", name) for name in names]
    headers = {"Content-Type": "application/x-tar"}
    async with (
        _session(source) as one,
        _session(target) as other,
        one.get("http://docker/images/get", params=wanted) as archive,
        other.post("http://docker/images/load", data=archive.content, headers=headers) as answer,
    ):
        archive.raise_for_status()
        answer.raise_for_status()
        await answer.read()


def _session(url: str) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(url.removeprefix("unix://"))
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300))
