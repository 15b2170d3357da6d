"""The worker's side of the dead-man's switch."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.core.config.coordination_settings import BOTS_END_BEFORE_LEASE_SECONDS
from libs.core.leases.boot_clock import boot_seconds, this_boot
from libs.docker_runner.containers.keepalive import (
    FILE_NAME,
    SAFETY_SECONDS,
    KeepaliveFile,
    SegmentKeepalive,
    has_expired,
    remove_abandoned,
    remove_stale,
    seconds_left,
)


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


def test_expired_file_means_now(tmp_path: Path) -> None:
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


def test_folders_without_refresh_are_removed_unless_their_segment_is_in_use(tmp_path: Path) -> None:
    for segment in ("1", "2", "3"):
        at(tmp_path / segment, 100.0, 5000.0).refresh(104.0)
    for segment in ("1", "2"):
        os.utime(tmp_path / segment, (1.0, 1.0))

    remove_stale(tmp_path, {2, 9})
    remove_stale(tmp_path / "none", {2})

    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["2", "3"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a few pages without a free one."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    try:
        (folder / "segment").mkdir()
        yield folder / "segment"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder.parent / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_a_refresh_on_a_full_disk_fails_and_leaves_nothing(full: Path) -> None:
    file = at(full, 100.0, 5000.0)
    file.refresh(104.0)
    before = words(full)
    fill(full)

    for _ in range(20):
        with pytest.raises(OSError, match="No space left"):
            file.refresh(105.0)

    assert [path.name for path in full.iterdir()] == ["lease"]
    assert words(full) == before
    (full.parent / "filler").unlink()
    file.refresh(105.0)
    assert words(full) != before


def test_a_refresh_of_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="Not a directory"):
        at(tmp_path / "file" / "1", 100.0, 5000.0).refresh(104.0)


def test_a_refresh_whose_write_takes_longer_than_the_margin_does_not_count(tmp_path: Path) -> None:
    at(tmp_path, 100.0, 5000.0).refresh(104.0)
    before = words(tmp_path)
    clock = itertools.count(100)

    with pytest.raises(TimeoutError):
        KeepaliveFile(tmp_path, 5.0, monotonic=lambda: float(next(clock)), uptime=lambda: 5000.0).refresh(110.0)

    assert words(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    file = at(tmp_path / "1", 100.0, 5000.0)
    file.refresh(104.0)
    shutil.rmtree(tmp_path / "1")

    file.refresh(104.0)

    assert words(tmp_path / "1")


def test_a_bot_may_read_the_folder_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        at(tmp_path / "1", 100.0, 5000.0).refresh(104.0)
    finally:
        os.umask(before)

    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "1" / "lease").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_left_of_a_write_goes_with_the_next_owner(tmp_path: Path) -> None:
    for name, age in ((".lease.old", 3600.0), (".lease.young", 0.0)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))

    at(tmp_path, 100.0, 5000.0).refresh(104.0)

    assert sorted(path.name for path in tmp_path.iterdir()) == [".lease.young", "lease"]


def test_a_former_folder_is_kept_up_only_while_it_has_a_lease_file(tmp_path: Path) -> None:
    used, unused = tmp_path / "used", tmp_path / "unused"
    KeepaliveFile(used).refresh(time.monotonic() + 1.0)
    before = words(used)

    keepalive = SegmentKeepalive(tmp_path / "new", former=[used, unused])
    keepalive.refresh(time.monotonic() + 5.0)

    assert words(used) != before
    assert not unused.exists()
    keepalive.expire()
    assert (words(used)[1], words(tmp_path / "new")[1]) == ("0.000", "0.000")


def test_a_former_folder_of_another_owner_is_not_expired(tmp_path: Path) -> None:
    KeepaliveFile(tmp_path / "former").refresh(time.monotonic() + 1.0)
    keepalive = SegmentKeepalive(tmp_path / "new", former=[tmp_path / "former"])
    keepalive.refresh(time.monotonic() + 5.0)
    KeepaliveFile(tmp_path / "former").refresh(time.monotonic() + 5.0)

    keepalive.expire()

    assert float(words(tmp_path / "former")[1]) > 0
    assert float(words(tmp_path / "new")[1]) == 0


def test_a_former_folder_that_cannot_be_written_fails_no_refresh(full: Path, tmp_path: Path) -> None:
    KeepaliveFile(full).refresh(time.monotonic() + 1.0)
    fill(full)
    keepalive = SegmentKeepalive(tmp_path / "new", former=[full])

    keepalive.refresh(time.monotonic() + 5.0)
    keepalive.expire()

    assert float(words(tmp_path / "new")[1]) == 0
    assert [path.name for path in full.iterdir()] == ["lease"]


def test_places_unused_for_a_day_are_removed(tmp_path: Path) -> None:
    for place in ("gone", "live", "empty"):
        (tmp_path / place).mkdir()
    for place in ("gone", "live"):
        at(tmp_path / place / "1", 100.0, 5000.0).refresh(104.0)
        at(tmp_path / place / "2", 100.0, 5000.0).refresh(104.0)
    for old in ("gone/1", "gone/2", "gone", "live/1", "live", "empty"):
        os.utime(tmp_path / old, (1.0, 1.0))

    remove_abandoned(tmp_path)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == ["live/2"]
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def test_old_files_of_live_workers_are_not_removed(tmp_path: Path) -> None:
    locked = tmp_path / "place.workers" / "a-1.worker"
    locked.parent.mkdir()
    locked.write_text("{}")
    for old in (locked, locked.parent):
        os.utime(old, (1.0, 1.0))

    remove_abandoned(tmp_path)

    assert locked.read_text() == "{}"


def test_bots_end_before_their_lease_by_as_much_as_the_settings_allow_for() -> None:
    init = Path("libs/docker_runner/sandbox/init")
    source = (init / "init.h").read_text() + (init / "main.c").read_text()
    # Such as `#define LOOK (SECOND / 5)`.
    defined = dict(re.findall(r"^#define (\w+) \(SECOND (.+)\)$", source, re.MULTILINE))
    before, look = (eval(f"1.0 {defined[name]}") for name in ("TERM_BEFORE_DEADLINE", "LOOK"))

    assert SAFETY_SECONDS + before + look == pytest.approx(BOTS_END_BEFORE_LEASE_SECONDS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{boot} 0.000 0.000 1\n", True),
        ("{boot} {past} 4.750 1\n", True),
        ("{boot} {future} 4.750 1\n", False),
        ("another {past} 4.750 1\n", False),
        ("{boot}", False),
        ("{boot} soon 4.750 1\n", False),
    ],
)
def test_a_keepalive_has_expired_by_the_clock_of_its_own_kernel(tmp_path: Path, text: str, expected: bool) -> None:
    assert has_expired(tmp_path) is False
    now = boot_seconds()
    (tmp_path / FILE_NAME).write_text(text.format(boot=this_boot(), past=now - 0.1, future=now + 60.0))

    assert has_expired(tmp_path) is expected


def test_last_deadline_is_written_with_its_form_and_may_exceed_the_life_of_a_lease(tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path, 5.0, monotonic=lambda: 1000.0, uptime=lambda: 1000.0)

    keepalive.end_by(1031.0, epoch=7)

    boot_id, deadline, left, _, form = (tmp_path / "lease").read_text().split()
    assert (float(deadline), float(left), form) == (1030.75, 30.75, "final")
    assert boot_id == this_boot()


def test_ownership_that_set_a_last_deadline_extends_nothing_and_a_later_one_does(tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path, 5.0, monotonic=lambda: 1000.0, uptime=lambda: 1000.0)
    keepalive.end_by(1031.0, epoch=7)
    written = (tmp_path / "lease").read_text()

    for epoch in (6, 7):
        keepalive.refresh(1005.0, epoch)
    assert (tmp_path / "lease").read_text() == written
    keepalive.refresh(1005.0, 8)

    assert (tmp_path / "lease").read_text().split()[1:3] == ["1004.750", "4.750"]


def test_last_deadline_is_also_that_of_containers_that_watch_a_former_folder(tmp_path: Path) -> None:
    (tmp_path / "former").mkdir()
    (tmp_path / "former" / "lease").write_text("x")
    keepalive = SegmentKeepalive(tmp_path / "now", former=[tmp_path / "former", tmp_path / "unused"])

    keepalive.end_by(boot_seconds() + 31.0, epoch=7)
    keepalive.refresh(boot_seconds() + 5.0, 7)

    assert (tmp_path / "former" / "lease").read_text().endswith(" final\n")
    assert not (tmp_path / "unused").exists()
