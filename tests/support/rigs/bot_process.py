"""The entrypoints as plain processes of this host, with the folders of a container, for tests."""

import functools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.docker_runner.entrypoints.python import start
from libs.docker_runner.sandbox.init import program

HERE = Path(start.__file__).parents[1]
COMMANDS = {
    "python3.11": [sys.executable, "-I", "-S", "-B", str(HERE / "python" / "start.py")],
    "nodejs20": ["node", str(HERE / "node" / "the0_bot_process.js")],
}


@functools.cache
def init_program() -> Path:
    """The init as a file that can be executed; one for all tests of this process."""
    path = Path(tempfile.mkdtemp(prefix="the0-init-")) / "the0-init"
    path.write_bytes(program(platform.machine()))
    path.chmod(0o755)
    return path


@dataclass
class Finished:
    """The result of a process."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    outcome: dict[str, Any]
    payload: bytes

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()

    @property
    def last(self) -> Any:
        """The last line of stdout, parsed as JSON."""
        return json.loads(self.lines[-1])


@dataclass
class BotProcess:
    """One bot of *runtime* whose code is *files* (relative path to text)."""

    directory: Path
    runtime: str
    files: dict[str, str]
    script: str
    id: str = "b1"
    config: Any = field(default_factory=dict)
    entrypoint: str = "bot"
    keepalive_ttl_seconds: float | None = None
    result_bytes: int = 1024 * 1024
    output_bytes_per_second: int = 1 << 30
    output_burst_bytes: int = 1 << 30
    standby: str = ""
    """The word without which its init does not start it; "" to start at once."""

    def __post_init__(self) -> None:
        self.base = self.directory / "the0"
        self.code = self.directory / "code"
        self.written = self.base / "written" / "result.json"
        for folder in ("spec", "keepalive", "private", "written"):
            (self.base / folder).mkdir(parents=True)
        self.code.mkdir()
        (self.code / "result.json").symlink_to(self.written)
        for name, text in self.files.items():
            path = self.code / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        spec = {
            "id": self.id,
            "entrypoint": self.entrypoint,
            "script": self.script,
            "mount": str(self.code),
            "traceparent": None,
        }
        limits: dict[str, float | str] = {
            "result_bytes": self.result_bytes,
            "output_bytes_per_second": self.output_bytes_per_second,
            "output_burst_bytes": self.output_burst_bytes,
            # The test's own user: another one could not read the folders of the test.
            "uid": os.getuid(),
            "gid": os.getgid(),
        }
        if self.standby:
            (self.base / "standby").mkdir()
            limits["standby"] = self.standby
        if self.keepalive_ttl_seconds is not None:
            limits["keepalive_ttl_seconds"] = self.keepalive_ttl_seconds
        (self.base / "spec" / "spec.json").write_text(json.dumps(spec))
        (self.base / "spec" / "config.json").write_text(json.dumps(self.config))
        (self.base / "spec" / "init.conf").write_text("".join(f"{name}={value}\n" for name, value in limits.items()))
        self.outcome = self.base / "private" / "outcome"
        self.outcome.touch()

    def start(self) -> "subprocess.Popen[bytes]":
        """The init's process."""
        return subprocess.Popen(
            [str(init_program()), str(self.base), *COMMANDS[self.runtime], str(self.base)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            cwd=self.code,
        )

    def let_go(self, text: str) -> None:
        """Write *text* as the word to start for a standby."""
        temporary = self.base / "standby" / ".go"
        temporary.write_text(text)
        temporary.rename(self.base / "standby" / "go")

    def finish(self, process: "subprocess.Popen[bytes]", timeout_seconds: float = 60.0) -> Finished:
        """Wait for its end."""
        try:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            raise
        head, _, payload = self.outcome.read_bytes().partition(b"\n")
        return Finished(process.returncode, stdout, stderr, json.loads(head or b"{}"), payload)

    def run(self) -> Finished:
        """Start it and wait for its end."""
        return self.finish(self.start())


def first_line(process: "subprocess.Popen[bytes]") -> bytes:
    """Return the next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline()


def is_gone(pid: int, within_seconds: float = 20.0) -> bool:
    """Whether the process has ended, or does so soon: a signal takes a moment."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def write_lease(
    bot: BotProcess, deadline: float, ttl: float = 5.0, boot_id: str | None = None, counter: int = 0, form: str = ""
) -> None:
    boot_id = boot_id or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    temporary = bot.base / "keepalive" / ".lease"
    temporary.write_text(f"{boot_id} {deadline} {ttl} {counter}{form}\n")
    temporary.rename(bot.base / "keepalive" / "lease")


def outlive_lease(bot: BotProcess, seconds: float = 1.2) -> tuple[Finished, float]:
    """Give a bot without a lease one when it prints ``up``; return its end and the seconds after the lease's end.

    The duration of the start, which varies on a busy machine, is not included.
    """
    process = bot.start()
    assert first_line(process) == b"up\n"
    write_lease(bot, deadline := uptime() + seconds)
    done = bot.finish(process)
    return done, uptime() - deadline


def uptime() -> float:
    """Seconds since boot, as /proc/uptime counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
