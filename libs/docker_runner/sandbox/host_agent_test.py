"""How a worker keeps the host agent: what it starts, replaces and reports, over an engine that is only facts."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer, from_labels
from libs.docker_runner.engine.answers import Inspected
from libs.docker_runner.engine.client import NameTaken, NoSuchImage
from libs.docker_runner.engine.http import EngineFailed
from libs.docker_runner.entrypoints.agent import VERSION
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.sandbox.host_agent import NAME, SIGN, HostAgent, Report, agent_body, report_of

ALIVE = b'{"event": "alive", "watched": 3, "killed": 1, "unreadable": 0}\n'


@dataclass
class FakeEngine:
    """An engine with at most one container, the agent; *failure* is raised instead of creating one."""

    container: ManagedContainer | None = None
    lines: list[LogLine] = field(default_factory=list)
    failure: Exception | None = None
    removed: int = 0

    async def inspect(self, name: str) -> Inspected | None:
        assert name == NAME
        return Inspected(self.container) if self.container is not None else None

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        if self.failure is not None:
            raise self.failure
        self.container = made(ContainerState.CREATED, body["Labels"])
        return "id"

    async def start(self, name: str) -> None:
        assert self.container is not None
        self.container = made(ContainerState.RUNNING, {Label.REVISION: str(self.container.revision)})

    async def remove(self, name: str) -> None:
        self.container = None
        self.removed += 1

    async def logs(self, name: str, *, tail: int) -> AsyncIterator[LogLine]:
        for line in self.lines[-tail:]:
            yield line


def made(state: ContainerState, labels: Mapping[str, str]) -> ManagedContainer:
    return from_labels(labels, container_id="id", name=NAME, state=state)


def running(version: int = VERSION) -> ManagedContainer:
    return made(ContainerState.RUNNING, {Label.REVISION: str(version)})


class Worker:
    """A worker with its clock."""

    def __init__(self, engine: FakeEngine, folder: Path) -> None:
        self.engine, self.now = engine, 0.0
        anything: Any = engine
        self.agent = HostAgent(anything, "image", lambda: folder, folder, monotonic=lambda: self.now)

    def values(self) -> dict[str, float]:
        return {sample.name: sample.value for metric in self.agent.collect() for sample in metric.samples}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(FakeEngine(), tmp_path)


def says(worker: Worker, data: bytes = ALIVE) -> None:
    worker.engine.lines.append(LogLine(f"2026-01-01T00:00:00.{len(worker.engine.lines):09}Z", "stdout", data))


async def test_a_missing_agent_is_started_and_its_report_shown(worker: Worker) -> None:
    says(worker)

    assert await worker.agent.keep_once() == 30.0

    assert worker.engine.container == running()
    assert worker.agent.complaint == ""
    assert worker.values() == {
        "runtime_host_agent_up": 1.0,
        "runtime_host_agent_watched_containers": 3.0,
        "runtime_host_agent_killed_total": 1.0,
    }


@pytest.mark.parametrize(
    ("found", "removed"),
    [
        (running(), 0),
        (running(VERSION + 1), 0),
        (running(VERSION - 1), 1),
        (made(ContainerState.EXITED, {Label.REVISION: str(VERSION)}), 1),
        (made(ContainerState.CREATED, {Label.REVISION: str(VERSION)}), 0),
    ],
    ids=["equal", "newer", "older", "dead", "created by another worker"],
)
async def test_an_agent_that_is_older_or_dead_is_replaced_and_others_stay(
    worker: Worker, found: ManagedContainer, removed: int
) -> None:
    worker.engine.container = found

    await worker.agent.keep_once()

    assert worker.engine.removed == removed
    assert worker.engine.container.state is ContainerState.RUNNING


async def test_a_silent_agent_is_reported_replaced_and_alive_again_with_the_next_report(worker: Worker) -> None:
    worker.engine.container = running()
    says(worker)
    await worker.agent.keep_once()
    worker.now = 75.0
    await worker.agent.keep_once()
    assert worker.agent.complaint == ""

    worker.now = 75.1
    await worker.agent.keep_once()
    assert worker.engine.removed == 1
    assert "says nothing" in worker.agent.complaint
    assert worker.values() == {"runtime_host_agent_up": 0.0}
    says(worker)
    await worker.agent.keep_once()

    assert worker.agent.complaint == ""
    assert worker.values()["runtime_host_agent_up"] == 1.0


async def test_an_agent_that_never_speaks_is_down_after_a_while(worker: Worker) -> None:
    await worker.agent.keep_once()
    assert worker.values() == {}

    worker.now += 76.0
    await worker.agent.keep_once()

    assert worker.values() == {"runtime_host_agent_up": 0.0}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(NoSuchImage(), "needs the image image"), (EngineFailed("start", 500, "no such mount"), "no such mount")],
)
async def test_an_agent_that_cannot_be_started_is_a_complaint_with_the_reason(
    worker: Worker, failure: Exception, reason: str
) -> None:
    worker.engine.failure = failure

    await worker.agent.keep_once()

    assert reason in worker.agent.complaint
    assert worker.values() == {"runtime_host_agent_up": 0.0}


async def test_a_worker_that_is_slower_than_another_looks_again_soon(worker: Worker) -> None:
    worker.engine.failure = NameTaken()

    assert await worker.agent.keep_once() < 5.0

    assert worker.agent.complaint == ""


async def test_keepalives_that_the_agent_cannot_read_are_a_complaint(worker: Worker) -> None:
    says(worker, b'{"event": "alive", "watched": 0, "killed": 0, "unreadable": 2}\n')

    await worker.agent.keep_once()

    assert "2 keepalives" in worker.agent.complaint
    assert worker.values() == {"runtime_host_agent_up": 0.0}


async def test_a_worker_shows_that_it_wants_the_agent(worker: Worker, tmp_path: Path) -> None:
    await worker.agent.want_once()
    first = (tmp_path / SIGN).stat().st_mtime_ns

    await worker.agent.want_once()

    assert (tmp_path / SIGN).stat().st_mtime_ns > first


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'{"watched": 1}', b'{"watched": [], "killed": 1, "unreadable": 1}', b"x" * 5000]
)
def test_other_lines_are_no_report(line: bytes) -> None:
    assert report_of(line) is None


def test_a_line_with_the_counts_is_a_report() -> None:
    assert report_of(ALIVE) == Report(3, 1, 0)


def test_the_agent_has_the_hosts_processes_and_control_groups_and_nothing_else() -> None:
    body = agent_body("image", Path("/work/entrypoints/ab"), Path("/dev/shm/keepalives"))
    host = body["HostConfig"]

    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], ["KILL", "SYS_PTRACE"])
    assert (host["NetworkMode"], host["PidMode"], host["CgroupnsMode"]) == ("none", "host", "host")
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert "Privileged" not in host
    assert "Env" not in body
    assert [(mount["Source"], mount.get("ReadOnly", False)) for mount in host["Mounts"]] == [
        ("/work/entrypoints/ab/agent", True),
        ("/dev/shm/keepalives", True),
        ("/sys/fs/cgroup", False),
    ]
    # It is no bot: nothing that counts or removes bots may find it.
    assert Label.MANAGED not in body["Labels"]
