"""What a worker grants a pod, and when a pod that cannot be reached is dead."""

import asyncio
from pathlib import Path

import pytest

from libs.core.aio.threads import Threads
from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.pods.link import End, LinkBroken, Question
from libs.docker_runner.pods.mirror import PodMirror
from libs.docker_runner.pods.session import PodSession, SegmentLease, granted_seconds


class FakeLink:
    """Records grants; fails when *is_broken*."""

    def __init__(self, is_broken: bool = False) -> None:
        self.granted: list[float] = []
        self.is_broken = is_broken

    async def grant(self, question: Question, seconds: float) -> None:
        self.granted.append(seconds)
        if self.is_broken:
            raise LinkBroken("gone")


class Rig:
    """A session at a time that the test sets, for a lease that it sets."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.lease: SegmentLease | None = SegmentLease(1, 105.0)
        container: ManagedContainer = from_labels({}, container_id="u", name="n", state=ContainerState.RUNNING)
        self.session = PodSession(
            container,
            PodMirror(folder),
            Threads("test", 1),
            address="127.0.0.1",
            port=1,
            key=bytes(32),
            lease=lambda: self.lease,
            changed=lambda session: None,
            clock=lambda: self.now,
        )

    async def ask(self, link: FakeLink) -> None:
        await self.session._answer(link, Question(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lease", "now", "granted"),
    [
        (None, 0.0, None),
        (SegmentLease(1, 10.0), 6.0, 6.0),
        (SegmentLease(1, 10.0), 9.5, 2.5),
        (SegmentLease(1, 10.0), 10.0, None),
        (SegmentLease(1, 10.0), 11.0, None),
    ],
)
def test_bot_is_granted_the_rest_of_a_proven_lease_and_two_seconds(
    lease: SegmentLease | None, now: float, granted: float | None
) -> None:
    assert granted_seconds(lease, now) == granted


async def test_pod_that_was_granted_is_dead_half_a_second_after_the_grant(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.ask(FakeLink())
    rig.lease = SegmentLease(1, 200.0)
    rig.now = 107.4
    assert not rig.session.is_dead()
    rig.now = 107.6

    assert rig.session.is_dead()


async def test_grant_whose_answer_was_lost_counts(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.ask(FakeLink())
    rig.now, rig.lease = 104.0, SegmentLease(1, 109.0)
    with pytest.raises(LinkBroken):
        await rig.ask(FakeLink(is_broken=True))
    rig.lease = SegmentLease(1, 200.0)
    rig.now = 111.4
    assert not rig.session.is_dead()
    rig.now = 111.6

    assert rig.session.is_dead()


async def test_pod_of_an_earlier_owner_is_dead_after_a_lease_and_a_margin(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.lease = SegmentLease(2, 200.0)
    rig.now = 107.4
    assert not rig.session.is_dead()
    rig.now = 107.6

    assert rig.session.is_dead()


async def test_grants_of_an_earlier_ownership_do_not_count_for_a_later_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.ask(FakeLink())
    # Another worker may have owned it meanwhile.
    rig.session._unreachable_since = 150.0
    rig.now, rig.lease = 156.0, SegmentLease(3, 200.0)

    assert not rig.session.is_dead()


async def test_worker_without_the_lease_never_declares_a_pod_dead(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.lease = None
    rig.now = 1000.0

    assert not rig.session.is_dead()


async def test_first_end_of_a_bot_stays(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await asyncio.gather(rig.session.ended(End(1, lost=False)), rig.session.ended(End(2, lost=True)))

    assert rig.session.end == End(1, lost=False)
