"""Makes sure that a Docker engine answers: uses the one there is, else installs and starts one if this user may."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.engine.errors import EngineFailedError, EngineMissingError
from tools.engine.probe import DEFAULT_SOCKET, engine_url, why_not

Report = Callable[[str], None]

_LOCK = Path("/run/lock/the0-engine.lock")
_LOG = Path("/var/log/the0-dockerd.log")
_INSTALL_SECONDS = 900
_START_SECONDS = 60
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answered; *url* is what DOCKER_HOST takes."""

    url: str


def to_stderr(text: str) -> None:
    """Report a step as a line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def ensure_engine(report: Report = to_stderr) -> Engine:
    """A Docker engine that answers. Safe to call from many processes at once: one of them starts it.

    An engine that is started here is the machine's and stays when this process ends.

    Raises:
        EngineMissingError: there is none and none can be started here; the message says what to do.
        EngineFailedError: installing or starting it failed; the message has the end of its output.
    """
    url = engine_url()
    reason = why_not(url)
    if reason is None:
        return Engine(url)
    advice = why_none_can_be_started(url, reason)
    if advice is not None:
        raise EngineMissingError(advice)
    with _locked():
        if why_not(url) is not None:  # nobody started it while we waited for the lock
            if shutil.which("dockerd") is None:
                _install(report)
            _start(url, report)
    return Engine(url)


def why_none_can_be_started(url: str, reason: str) -> str | None:
    """What the user must do about an engine that does not answer; None when we can start one ourselves."""
    if url != f"unix://{DEFAULT_SOCKET}":
        return f"no Docker engine answers at DOCKER_HOST={url} ({reason}): start it, or unset DOCKER_HOST"
    if os.geteuid() != 0:
        if DEFAULT_SOCKET.exists() and not os.access(DEFAULT_SOCKET, os.W_OK):
            return (
                f"the Docker engine's socket {DEFAULT_SOCKET} is not yours to use: run "
                f"`sudo usermod -aG docker $USER` and log in again"
            )
        return (
            f"no Docker engine answers ({reason}): start Docker (`sudo systemctl start docker`), "
            f"or install it (https://docs.docker.com/engine/install/)"
        )
    if shutil.which("dockerd") is None and shutil.which("apt-get") is None:
        return "no Docker engine is installed: install it (https://docs.docker.com/engine/install/) and start it"
    return None


def apt_install(packages: list[str], report: Report) -> None:
    """Install Debian packages without the recommended ones.

    Raises:
        EngineFailedError: apt-get failed; the message has the end of its output.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    report(f"installing {', '.join(packages)} with apt-get (once)")
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
        command = ["apt-get", *arguments]
        try:
            done = subprocess.run(  # noqa: S603
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineFailedError(f"`{' '.join(command)}` did not end within {_INSTALL_SECONDS} s") from error
        if done.returncode != 0:
            lines = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-15:])
            raise EngineFailedError(f"`{' '.join(command)}` failed:\n{lines}")


def _install(report: Report) -> None:
    packages = ["docker.io", "iptables"]
    apt_install(packages, report)
    if shutil.which("dockerd") is None:
        raise EngineFailedError(f"the packages {packages} are installed, but there is no `dockerd`")


def _start(url: str, report: Report) -> None:
    report("starting the Docker engine")
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False, stdin=subprocess.DEVNULL)  # noqa: S607
        _wait(url, None)
        return
    with _LOG.open("ab") as log:
        # A session of its own: Ctrl-C in this terminal must not end the machine's engine.
        daemon = subprocess.Popen(
            ["dockerd"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _wait(url, daemon)
    daemon.returncode = 0  # it is meant to outlive this process; Popen would warn


def _wait(url: str, daemon: "subprocess.Popen[bytes] | None") -> None:
    deadline = time.monotonic() + _START_SECONDS
    reason = why_not(url)
    while reason is not None:
        ended = daemon is not None and daemon.poll() is not None
        if ended or time.monotonic() > deadline:
            what = "ended at once" if ended else f"did not answer within {_START_SECONDS} s ({reason})"
            raise EngineFailedError(f"the Docker engine {what}. {_end_of_log()}")
        time.sleep(_POLL_SECONDS)
        reason = why_not(url)


def _end_of_log() -> str:
    if not _LOG.exists():
        return "See `journalctl -u docker`."
    lines = _LOG.read_text(errors="replace").splitlines()[-15:]
    return f"Last lines of {_LOG}:\n" + "\n".join(f"    {line}" for line in lines)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
