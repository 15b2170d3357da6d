"""The worker's side of the dead-man's switch."""

import os
from pathlib import Path

from libs.docker_runner.keepalive import SAFETY_SECONDS, KeepaliveFile, remove_stale, seconds_left


def words(folder: Path) -> list[str]:
    return (folder / "lease").read_text().split()


def at(folder: Path, monotonic: float, uptime: float, ttl: float = 5.0) -> KeepaliveFile:
    return KeepaliveFile(folder, ttl, monotonic=lambda: monotonic, uptime=lambda: uptime)


def test_the_deadline_is_before_the_lease_ends_on_the_kernels_clock(tmp_path: Path) -> None:
    at(tmp_path / "k", 100.0, 5000.0).refresh(104.0)
    boot_id, deadline, ttl, _ = words(tmp_path / "k")
    assert boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert float(deadline) == 5004.0 - SAFETY_SECONDS
    assert float(ttl) == 4.0 - SAFETY_SECONDS


def test_every_refresh_changes_the_file(tmp_path: Path) -> None:
    file = at(tmp_path, 100.0, 5000.0)
    file.refresh(104.0)
    before = words(tmp_path)
    file.refresh(104.0)
    assert words(tmp_path) != before
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_an_expired_file_says_now(tmp_path: Path) -> None:
    file = at(tmp_path, 100.0, 5000.0)
    file.refresh(104.0)
    file.expire()
    assert float(words(tmp_path)[1]) == 0


def test_a_lease_in_the_past_is_no_order_to_end_at_once(tmp_path: Path) -> None:
    at(tmp_path, 100.0, 50.0).refresh(1.0)
    assert 0 < float(words(tmp_path)[1]) < 50


def test_a_former_owner_does_not_expire_its_successor(tmp_path: Path) -> None:
    former, successor = at(tmp_path, 100.0, 5000.0), at(tmp_path, 100.0, 5000.0)
    former.refresh(104.0)
    successor.refresh(105.0)
    former.expire()
    assert float(words(tmp_path)[1]) == 5005.0 - SAFETY_SECONDS


def test_a_lease_gives_no_more_than_its_life(tmp_path: Path) -> None:
    at(tmp_path, 100.0, 5000.0, ttl=2.0).refresh(200.0)
    assert float(words(tmp_path)[1]) == 5002.0 - SAFETY_SECONDS


def test_what_is_left_is_read_back(tmp_path: Path) -> None:
    at(tmp_path, 1.0, 1.0).refresh(5.0)
    assert seconds_left(tmp_path) == 4.0 - SAFETY_SECONDS
    assert seconds_left(tmp_path / "none") == 5.0


def test_folders_that_nobody_refreshes_go_unless_their_segment_is_in_use(tmp_path: Path) -> None:
    for segment in ("1", "2", "3"):
        at(tmp_path / segment, 100.0, 5000.0).refresh(104.0)
    for segment in ("1", "2"):
        os.utime(tmp_path / segment, (1.0, 1.0))

    remove_stale(tmp_path, {2, 9})
    remove_stale(tmp_path / "none", {2})

    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["2", "3"]
