"""Which processes have the mounts of a container of the runtime."""

import os
from pathlib import Path

import pytest

from libs.docker_runner.entrypoints.agent.containers import KeepaliveFolder, keepalive_mount

ROOT = "199 168 0:46 / / ro,relatime master:72 - overlay overlay rw"
ENTRY = "220 199 254:0 /work/entrypoints/ab/python /run/the0/entry ro,relatime - ext4 /dev/vda rw"
KEEPALIVE = "221 199 0:25 /the0-runtime-0/ab/1 /run/the0/keepalive ro,relatime - tmpfs tmpfs rw"


def test_a_process_with_the_mounts_of_the_runtime_has_a_keepalive() -> None:
    assert keepalive_mount("\n".join([ROOT, ENTRY, KEEPALIVE])) == "221"


@pytest.mark.parametrize(
    "mounts",
    [
        [ROOT, KEEPALIVE],
        [ROOT, ENTRY],
        [ROOT, ENTRY, KEEPALIVE.replace("ro,", "rw,")],
        [ROOT, ENTRY.replace("ro,", "rw,"), KEEPALIVE],
        [ROOT, ENTRY, KEEPALIVE.replace("/run/the0", "/tmp/run/the0")],
        [ROOT, ENTRY, KEEPALIVE.replace(" /run/the0", " /var/lib/docker/overlay2/ab/merged/run/the0")],
        ["", "malformed"],
    ],
    ids=["no entry", "no keepalive", "writable", "writable entry", "imitated", "of the engine", "malformed"],
)
def test_other_mounts_are_none_of_the_runtime(mounts: list[str]) -> None:
    assert keepalive_mount("\n".join(mounts)) is None


def test_writable_mounts_count_for_the_file_server_of_gvisor() -> None:
    mounts = "\n".join([ROOT, ENTRY.replace("ro,", "rw,"), KEEPALIVE.replace("ro,", "rw,")])

    assert keepalive_mount(mounts, writable=True) == "221"
    assert keepalive_mount(ROOT, writable=True) is None


def opened(folder: Path) -> KeepaliveFolder:
    return KeepaliveFolder(os.open(folder, os.O_PATH | os.O_DIRECTORY))


def test_a_keepalive_is_read_from_the_folder_that_was_mounted_even_if_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "lease").write_text("old")
    folder, other = opened(tmp_path / "1"), opened(tmp_path)
    (tmp_path / "1").rename(tmp_path / "away")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "lease").write_text("new")

    assert folder.content() == "old"
    assert folder.key != other.key
    (tmp_path / "away" / "lease").unlink()
    assert folder.content() is None
    folder.close()
    other.close()


def test_a_link_or_a_pipe_in_place_of_the_file_is_not_followed_and_does_not_block(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    (tmp_path / "lease").symlink_to("/proc/self/status")
    assert folder.content() is None
    (tmp_path / "lease").unlink()
    os.mkfifo(tmp_path / "lease")
    assert folder.content() == ""
    folder.close()
