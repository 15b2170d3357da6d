"""Keepalive files are in memory where that can be, and always where the engine sees them."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from libs.core.errors import Retryable
from libs.docker_runner.containers import keepalive_root as module
from libs.docker_runner.containers.keepalive_root import (
    KeepaliveDirUnusable,
    is_in_memory,
    is_on_this_kernel,
    keepalive_places,
    keepalive_root,
    usual_roots,
)

pytestmark = pytest.mark.skipif(not is_in_memory(Path("/dev/shm")), reason="/dev/shm is not in memory here")


class Eyes:
    """An engine that sees what is below one of these folders, at the same path or at none."""

    def __init__(self, *visible: Path, faults: int = 0) -> None:
        self.visible = visible
        self.faults = faults
        self.asked: list[Path] = []

    async def sees(self, folder: Path) -> bool:
        if self.faults:
            self.faults -= 1
            raise Retryable("away")
        self.asked.append(folder)
        assert await asyncio.to_thread(folder.is_dir)
        return any(folder.is_relative_to(one) for one in self.visible)


async def test_the_usual_folder_is_in_memory_and_for_this_user_alone(tmp_path: Path) -> None:
    eyes = Eyes(Path("/"))

    root = await keepalive_root(None, tmp_path, eyes)

    assert root == usual_roots()[0]
    assert is_in_memory(root)
    assert root.stat().st_uid == os.geteuid()
    assert root.stat().st_mode & 0o022 == 0
    assert not eyes.asked[0].exists()


@pytest.mark.parametrize("faults", [0, 100], ids=["unseen", "no answer"])
async def test_what_the_engine_does_not_see_is_not_taken_unless_it_was_asked_for(tmp_path: Path, faults: int) -> None:
    eyes = Eyes(tmp_path, faults=faults)

    assert await keepalive_root(None, tmp_path, eyes) == tmp_path / "keepalive"


async def test_an_engine_that_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    assert await keepalive_root(None, tmp_path, Eyes(Path("/"), faults=1)) == usual_roots()[0]


async def test_a_folder_that_is_asked_for_is_taken_as_it_is(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"

    assert await keepalive_root(wanted, tmp_path, Eyes(tmp_path)) == wanted
    assert list(wanted.iterdir()) == []


async def test_a_folder_that_is_asked_for_and_not_seen_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(KeepaliveDirUnusable, match=f"KEEPALIVE_DIR {tmp_path}: the Docker engine does not see it"):
        await keepalive_root(tmp_path, tmp_path, Eyes())


async def test_a_folder_that_is_asked_for_and_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(KeepaliveDirUnusable, match="Not a directory"):
        await keepalive_root(tmp_path / "file" / "x", tmp_path, Eyes(tmp_path))


async def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder away needs root")
    os.chown(tmp_path, 12345, 12345)
    # To another user the root user's own folder is fine, and one of a third is not.
    with pytest.raises(KeepaliveDirUnusable, match="belongs to another user"):
        await keepalive_root(tmp_path, tmp_path, Eyes(tmp_path))


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_usual_folder_that_others_may_write_is_not_taken(mode: int) -> None:
    root = Path("/dev/shm") / f"the0-test-{os.getpid()}-{mode}"
    root.mkdir()
    root.chmod(mode)
    try:
        assert module.make_own(root) is False
        root.chmod(0o755)
        assert module.make_own(root) is True
    finally:
        root.rmdir()


def test_a_usual_folder_that_is_a_link_is_not_taken(tmp_path: Path) -> None:
    root = Path("/dev/shm") / f"the0-test-{os.getpid()}-link"
    root.symlink_to(tmp_path)
    try:
        assert module.make_own(root) is False
    finally:
        root.unlink()


def test_a_disk_is_not_memory() -> None:
    assert not is_in_memory(Path("/etc"))


def test_locks_in_memory_are_of_this_kernel_and_those_of_an_unknown_file_system_may_not_be() -> None:
    assert is_on_this_kernel(Path("/dev/shm/the0-runtime"))
    assert not is_on_this_kernel(Path("/proc"))


ROOT, OTHER = Path("/dev/shm/the0"), Path("/run/the0")
HERE = {"service": "bot-runner", "scope": "s", "engine_id": "e", "boot_id": "b"}


@pytest.mark.parametrize("other", ["service", "scope", "engine_id", "boot_id"])
def test_engines_that_share_a_root_have_keepalives_of_their_own(other: str) -> None:
    mine = keepalive_places(ROOT, [], **HERE)

    assert keepalive_places(ROOT, [], **HERE) == mine
    assert keepalive_places(ROOT, [], **HERE | {other: "another"}).current != mine.current
    assert mine.current.parent == ROOT


def test_ids_that_are_joined_alike_have_different_places() -> None:
    mine = keepalive_places(ROOT, [], **HERE | {"engine_id": "a", "boot_id": "bc"})

    assert keepalive_places(ROOT, [], **HERE | {"engine_id": "ab", "boot_id": "c"}).current != mine.current


def test_places_of_older_versions_and_of_other_roots_are_former_ones() -> None:
    places = keepalive_places(ROOT, [OTHER, ROOT], **HERE)
    # Without engine and boot, as versions before had it.
    before = hashlib.sha256(b"bot-runner\0s").hexdigest()[:20]

    assert places.former == (ROOT / before, OTHER / places.current.name, OTHER / before)


def test_a_hostile_id_stays_inside_of_the_root() -> None:
    places = keepalive_places(ROOT, [], **HERE | {"engine_id": "../../etc"})

    assert ".." not in str(places.current)
