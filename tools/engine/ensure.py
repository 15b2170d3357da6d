"""Ensure that a Docker engine answers: use the existing one, else install and start one if this user may."""

import asyncio
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.debian.command import CommandFailedError, run_command
from tools.debian.locks import file_lock
from tools.debian.packages import Report, apt_install, to_stderr
from tools.engine.errors import EngineFailedError, EngineMissingError
from tools.engine.probe import DEFAULT_SOCKET, engine_url, why_not

_LOCK = Path("/run/lock/the0-engine.lock")
_LOG = Path("/var/log/the0-dockerd.log")
_START_SECONDS = 60
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answered; *url* is in the form of DOCKER_HOST."""

    url: str


async def ensure_engine(report: Report = to_stderr) -> Engine:
    """Return a Docker engine that answers. Many processes may call it at once: one of them starts it.

    An engine that is started here belongs to the machine and keeps running after this process.

    Raises:
        EngineMissingError: there is none and none can be started here; the message has the remedy.
        EngineFailedError: installing or starting it failed; the message has the end of its output.
    """
    url = engine_url()
    reason = await _why_not(url)
    if reason is None:
        return Engine(url)
    advice = why_none_can_be_started(url, reason, root=os.geteuid() == 0)
    if advice is not None:
        raise EngineMissingError(advice)
    async with file_lock(_LOCK):
        if await _why_not(url) is not None:  # not started by another process during the wait
            if shutil.which("dockerd") is None:
                await _install(report)
            await _start(url, report)
    return Engine(url)


def why_none_can_be_started(url: str, reason: str, *, root: bool) -> str | None:
    """Return what the user must do about an engine that does not answer; None if it can be started here."""
    if url != f"unix://{DEFAULT_SOCKET}":
        return f"no Docker engine answers at DOCKER_HOST={url} ({reason}): start it, or unset DOCKER_HOST"
    if not root:
        if DEFAULT_SOCKET.exists() and not os.access(DEFAULT_SOCKET, os.W_OK):
            return (
                f"the Docker engine's socket {DEFAULT_SOCKET} is not accessible to you: run "
                f"`sudo usermod -aG docker $USER` and log in again"
            )
        return (
            f"no Docker engine answers ({reason}): start Docker (`sudo systemctl start docker`), "
            f"or install it (https://docs.docker.com/engine/install/)"
        )
    if shutil.which("dockerd") is None and shutil.which("apt-get") is None:
        return "no Docker engine is installed: install it (https://docs.docker.com/engine/install/) and start it"
    return None


async def _install(report: Report) -> None:
    packages = ["docker.io", "iptables"]
    try:
        await apt_install(packages, report)
    except CommandFailedError as error:
        raise EngineFailedError(f"the Docker engine could not be installed: {error}") from error
    if shutil.which("dockerd") is None:
        raise EngineFailedError(f"the packages {', '.join(packages)} are installed, but there is no `dockerd`")


async def _start(url: str, report: Report) -> None:
    report("starting the Docker engine")
    if _has_systemd():
        try:
            await run_command(["systemctl", "start", "docker"], within_seconds=_START_SECONDS)
        except CommandFailedError as error:
            raise EngineFailedError(f"the Docker engine could not be started: {error}") from error
        await _wait(url, None)
        return
    daemon = _launch_daemon()
    await _wait(url, daemon)
    daemon.returncode = 0  # it is meant to outlive this process; Popen would warn


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _launch_daemon() -> "subprocess.Popen[bytes]":
    with _LOG.open("ab") as log:
        # A separate session: Ctrl-C in this terminal must not end the machine's engine.
        return subprocess.Popen(
            ["dockerd"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _wait(url: str, daemon: "subprocess.Popen[bytes] | None") -> None:
    reason: str | None = ""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while (reason := await _why_not(url)) is not None:
                if daemon is not None and daemon.poll() is not None:
                    raise EngineFailedError(f"the Docker engine exited immediately. {_end_of_log()}")
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise EngineFailedError(
            f"the Docker engine did not answer within {_START_SECONDS} s ({reason}). {_end_of_log()}"
        ) from None


async def _why_not(url: str) -> str | None:
    return await asyncio.to_thread(why_not, url)


def _end_of_log() -> str:
    if not _LOG.exists():
        return "See `journalctl -u docker`."
    lines = _LOG.read_text(errors="replace").splitlines()[-15:]
    return f"Last lines of {_LOG}:\n" + "\n".join(f"    {line}" for line in lines)
