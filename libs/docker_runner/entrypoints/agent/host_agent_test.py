"""What the host agent kills and when, in virtual time over containers that are only facts."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from libs.docker_runner.entrypoints.agent.host_agent import HostAgent

HERE = "boot-1"


@dataclass
class Folder:
    key: tuple[int, int]
    text: str | None
    open: bool = True

    def content(self) -> str | None:
        return self.text

    def close(self) -> None:
        assert self.open
        self.open = False


@dataclass
class Group:
    container_id: str
    frozen: bool = False
    kills: int = 0
    failure: OSError | None = None

    def is_frozen(self) -> bool:
        return self.frozen

    def kill(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.kills += 1


@dataclass
class Container:
    group: Group
    folder: Folder
    alive: bool = True

    def has_process(self) -> bool:
        return self.alive


@dataclass
class Host:
    """A host with its clock; containers are found in the next pass."""

    now: float = 1000.0
    new: list[Container] = field(default_factory=list)
    ended: list[Container] = field(default_factory=list)
    forgotten: list[Container] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    sign: object = None
    said: list[dict[str, Any]] = field(default_factory=list)
    looks: int = 0

    def refresh(self, now: float) -> tuple[list[Container], list[Container]]:
        self.looks += 1
        found, self.new = self.new, []
        ended, self.ended = self.ended, []
        return found, ended

    def forget(self, container: Container) -> None:
        self.forgotten.append(container)

    def say(self, level: str, event: str, **fields: Any) -> None:
        self.said.append({"level": level, "event": event, **fields})

    def starts(self, name: str = "c1", left: float = 4.75, key: int = 1) -> Container:
        container = Container(Group(name), Folder((0, key), ""))
        self.refreshes(container, left)
        self.new.append(container)
        return container

    def refreshes(self, container: Container, left: float = 4.75) -> None:
        container.folder.text = f"{HERE} {self.now + left:.3f} {left:.3f} {self.now}\n"


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def agent(host: Host) -> HostAgent:
    containers: Any = host
    return HostAgent(containers, HERE, clock=lambda: host.now, sign=lambda: host.sign, say=host.say)


def passes(agent: HostAgent, host: Host, until: float) -> int:
    """Make the passes that the agent schedules, up to and including the one at *until* (seconds from the start)."""
    count = 0
    while host.now < 1000.0 + until:
        host.now = min(host.now + agent.one_pass(), 1000.0 + until)
        count += 1
    agent.one_pass()
    return count + 1


def test_an_idle_agent_makes_a_pass_every_two_seconds(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    count = 0
    for _ in range(30):
        host.refreshes(container)
        count += passes(agent, host, host.now - 1000.0 + 2.0) - 1
    assert count <= 31
    assert container.group.kills == 0


def test_a_frozen_container_is_killed_at_its_deadline(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    container.group.frozen = True

    passes(agent, host, 4.74)
    assert container.group.kills == 0
    passes(agent, host, 4.86)
    assert container.group.kills > 0

    killed = next(said for said in host.said if said["event"].startswith("killed"))
    assert (killed["container"], killed["frozen"], killed["killed"]) == ("c1", True, 1)
    assert 0 <= killed["late_seconds"] <= 0.11


def test_a_running_container_is_killed_two_seconds_after_its_deadline(agent: HostAgent, host: Host) -> None:
    container = host.starts()

    passes(agent, host, 6.74)
    assert container.group.kills == 0
    passes(agent, host, 6.86)
    assert container.group.kills > 0
    # The processes are not listed in each of the passes after a deadline.
    assert host.looks <= 5


def test_a_container_that_is_frozen_after_its_deadline_is_killed_at_once(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    passes(agent, host, 5.0)
    container.group.frozen = True

    passes(agent, host, 5.11)

    assert container.group.kills > 0


def test_a_refresh_just_before_the_kill_saves_the_container(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    passes(agent, host, 6.7)
    host.now = 1006.8
    # Between the pass's own read and its decision.
    reads = iter([container.folder.text])
    refreshed = f"{HERE} {host.now + 4.75:.3f} 4.750 2\n"
    container.folder.content = lambda: next(reads, refreshed)  # type: ignore[method-assign]

    agent.one_pass()

    assert container.group.kills == 0


def test_a_killed_container_is_killed_again_until_it_is_dead_even_if_its_keepalive_is_refreshed(
    agent: HostAgent, host: Host
) -> None:
    container = host.starts()
    passes(agent, host, 6.86)
    host.refreshes(container, 60.0)
    passes(agent, host, 7.5)
    assert container.group.kills > 1
    container.alive = False

    passes(agent, host, 7.7)

    assert host.forgotten == [container]
    assert not container.folder.open


def test_a_container_that_the_kernel_cannot_end_is_reported_and_costs_few_passes(agent: HostAgent, host: Host) -> None:
    host.starts()
    passes(agent, host, 10.0)

    assert passes(agent, host, 110.0) < 60
    survives = [said for said in host.said if said["event"] == "container survives SIGKILL"]
    assert 9 <= len(survives) <= 11


def test_a_container_that_is_dead_at_its_limit_is_not_counted_as_killed(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    container.alive = False

    passes(agent, host, 8.0)

    assert container.group.kills == 0
    assert host.forgotten == [container]


def test_an_ended_container_is_dropped(agent: HostAgent, host: Host) -> None:
    container = host.starts()
    passes(agent, host, 2.0)
    host.ended.append(container)

    passes(agent, host, 10.0)

    assert container.group.kills == 0
    assert not container.folder.open


def test_a_container_that_cannot_be_killed_keeps_no_other_from_being_killed(agent: HostAgent, host: Host) -> None:
    failing, other = host.starts("c1"), host.starts("c2", key=2)
    failing.group.failure = PermissionError(1, "not permitted")

    passes(agent, host, 8.0)

    assert other.group.kills > 0
    [said] = [said for said in host.said if said["event"] == "container not killed"]
    assert said["container"] == "c1"


def test_each_keepalive_is_judged_by_itself(agent: HostAgent, host: Host) -> None:
    lapsed, live = host.starts("c1", 4.75, key=1), host.starts("c2", 30.0, key=2)

    passes(agent, host, 10.0)

    assert (lapsed.group.kills > 0, live.group.kills) == (True, 0)


def test_containers_of_one_keepalive_share_its_fate(agent: HostAgent, host: Host) -> None:
    one, two = host.starts("c1"), host.starts("c2")

    passes(agent, host, 6.86)

    assert (one.group.kills > 0, two.group.kills > 0) == (True, True)


def test_the_agent_reports_every_twenty_seconds_with_its_counts(agent: HostAgent, host: Host) -> None:
    host.starts(left=900.0)
    host.unreadable.add("c9")

    passes(agent, host, 100.0)

    alive = [said for said in host.said if said["event"] == "alive"]
    assert 5 <= len(alive) <= 6
    assert (alive[-1]["watched"], alive[-1]["killed"], alive[-1]["unreadable"]) == (1, 0, 1)
    assert any(said["containers"] == ["c9"] for said in host.said if said["level"] == "error")


def test_the_agent_is_wanted_while_a_worker_shows_it(agent: HostAgent, host: Host) -> None:
    for second in range(0, 61, 5):
        host.now, host.sign = 1000.0 + second, second
        assert agent.is_wanted()
    host.now += 19.0
    assert agent.is_wanted()
    host.now += 1.0
    assert not agent.is_wanted()


def test_the_agent_is_wanted_while_it_watches_a_container(agent: HostAgent, host: Host) -> None:
    container = host.starts(left=900.0)
    passes(agent, host, 100.0)
    assert agent.is_wanted()

    host.ended.append(container)
    passes(agent, host, 104.0)

    assert agent.is_wanted()
    host.now += 30.0
    agent.is_wanted()
    host.now += 30.0
    assert not agent.is_wanted()


def test_last_deadline_of_a_frozen_container_stays_when_the_next_owner_writes_its_own(
    agent: HostAgent, host: Host
) -> None:
    stopping = host.starts("c1")
    stopping.group.frozen = True
    agent.one_pass()
    stopping.folder.text = f"{HERE} {host.now + 31:.3f} 31.000 2 final\n"
    passes(agent, host, 20.0)
    assert stopping.group.kills == 0

    new = host.starts("c2", left=600.0)
    new.group.frozen = True
    new.folder = stopping.folder
    host.refreshes(new, left=600.0)
    passes(agent, host, 30.5)
    assert stopping.group.kills == 0
    passes(agent, host, 32.5)

    assert stopping.group.kills > 0
    assert new.group.kills == 0


def test_running_container_has_the_time_of_its_init_after_its_last_deadline(agent: HostAgent, host: Host) -> None:
    stopping = host.starts("c1")
    stopping.folder.text = f"{HERE} {host.now + 10:.3f} 10.000 2 final\n"

    passes(agent, host, 11.9)
    assert stopping.group.kills == 0
    passes(agent, host, 12.1)

    assert stopping.group.kills > 0
