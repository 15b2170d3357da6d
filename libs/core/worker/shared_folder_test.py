"""The lock of a worker process: what proves its death, and what does not."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from libs.core.leases.lease import Holder
from libs.core.worker.shared_folder import Offer, SharedFolder

A = Holder("a", "a-1", "engine", 1, "boot")
B = Holder("b", "b-1", "engine", 2, "boot")
C = Holder("c", "c-1", "engine", 3, "boot")

WORKER = """
import subprocess, sys
from pathlib import Path
from libs.core.leases.lease import Holder
from libs.core.worker.shared_folder import SharedFolder
folder = SharedFolder(Path(sys.argv[1]), Holder("a", "a-1", "engine", 1, "boot"), Path(sys.argv[2]))
folder.open()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def opened(shared: Path, holder: Holder, work: Path) -> SharedFolder:
    folder = SharedFolder(shared, holder, work)
    folder.open()
    return folder


@contextmanager
def worker_process(shared: Path, work: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process with the lock of A, and with a child that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(shared), str(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_killed_worker_is_dead_although_its_child_lives(shared: Path, work: Path) -> None:
    with worker_process(shared, work) as process:
        me = opened(shared, B, work)
        before = [(one.holder, one.alive) for one in me.neighbours()]

        process.kill()
        process.wait()

        assert before == [(A, True)]
        assert [(one.holder, one.alive) for one in me.neighbours()] == [(A, False)]
        me.close(keeps_leases=False)


def test_frozen_worker_is_alive(shared: Path, work: Path) -> None:
    with worker_process(shared, work) as process:
        me = opened(shared, B, work)
        process.send_signal(signal.SIGSTOP)
        while "\nState:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)

        assert [one.alive for one in me.neighbours()] == [True]
        me.close(keeps_leases=False)


def test_worker_is_alive_for_two_neighbours_that_look_at_the_same_time(shared: Path, work: Path) -> None:
    a, b, c = (opened(shared, holder, work) for holder in (A, B, C))
    assert [one.alive for one in b.neighbours()] == [True, True]
    a.close(keeps_leases=True)

    # Another neighbour tests the lock now.
    with (shared / "a-1.worker").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert {one.holder: one.alive for one in b.neighbours()} == {A: False, C: True}
    b.close(keeps_leases=False)
    c.close(keeps_leases=False)


@pytest.mark.parametrize(
    "other",
    [
        replace(A, host="another engine"),
        replace(A, boot_id="another boot"),
        replace(A, boot_id=""),
    ],
    ids=["engine", "boot", "unknown boot"],
)
def test_worker_of_another_engine_or_boot_is_no_neighbour(shared: Path, work: Path, other: Holder) -> None:
    me = opened(shared, B, work)
    opened(shared, other, work).close(keeps_leases=True)

    assert me.neighbours() == []
    me.close(keeps_leases=False)


def test_worker_of_an_unknown_boot_has_no_neighbours(shared: Path, work: Path) -> None:
    opened(shared, replace(A, boot_id=""), work).close(keeps_leases=True)
    me = opened(shared, replace(B, boot_id=""), work)

    assert me.neighbours() == []
    me.close(keeps_leases=False)


def test_worker_with_another_work_folder_is_no_neighbour(shared: Path, work: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    me = opened(shared, B, work)
    opened(shared, A, tmp_path / "elsewhere").close(keeps_leases=True)

    assert me.neighbours() == []
    me.close(keeps_leases=False)


def test_work_folder_under_another_name_is_the_same(shared: Path, work: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(work)
    me = opened(shared, B, work)
    opened(shared, A, tmp_path / "link").close(keeps_leases=True)

    assert [one.alive for one in me.neighbours()] == [False]
    me.close(keeps_leases=False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"worker_id": "a"}', "\xff", '{"instance_id": "x"}'])
def test_unreadable_file_proves_nothing(shared: Path, work: Path, text: str) -> None:
    me = opened(shared, B, work)
    (shared / "x.worker").write_text(text, encoding="latin-1")

    assert me.neighbours() == []
    me.close(keeps_leases=False)


def test_file_of_another_instance_proves_nothing(shared: Path, work: Path) -> None:
    me = opened(shared, B, work)
    opened(shared, A, work).close(keeps_leases=True)
    (shared / "a-1.worker").rename(shared / "a-2.worker")

    assert me.neighbours() == []
    me.close(keeps_leases=False)


def test_worker_without_leases_leaves_nothing(shared: Path, work: Path) -> None:
    me = opened(shared, B, work)
    me.offer(Offer(7, 3))
    me.leave()

    me.close(keeps_leases=False)

    assert list(shared.iterdir()) == []


def test_offer_is_seen_until_it_is_accepted(shared: Path, work: Path) -> None:
    me, other = opened(shared, A, work), opened(shared, B, work)
    me.offer(Offer(7, 3, "b-1"))
    me.offer(Offer(8, 4))
    assert [set(one.offers) for one in other.neighbours()] == [{Offer(7, 3, "b-1"), Offer(8, 4)}]

    other.accept(A, 7)
    me.withdraw(8)

    assert (me.is_offered(7), me.is_offered(8)) == (False, False)
    assert [one.offers for one in other.neighbours()] == [()]
    for folder in (me, other):
        folder.close(keeps_leases=False)


def test_worker_that_ends_is_leaving_and_a_forgotten_one_is_gone(shared: Path, work: Path) -> None:
    me, other = opened(shared, A, work), opened(shared, B, work)
    assert [one.leaving for one in other.neighbours()] == [False]
    me.leave()
    me.offer(Offer(7, 3))
    assert [one.leaving for one in other.neighbours()] == [True]
    me.close(keeps_leases=True)

    other.forget(A)

    assert other.neighbours() == []
    assert [path.name for path in shared.iterdir()] == ["b-1.worker"]
    other.close(keeps_leases=False)
    other.close(keeps_leases=False)
