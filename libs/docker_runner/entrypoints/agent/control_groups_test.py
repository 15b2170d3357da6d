"""Which control group is a container's, and that no other process is killed. Without control groups of its own."""

import os
import subprocess
from pathlib import Path

import pytest

from libs.docker_runner.entrypoints.agent.control_groups import ControlGroup, Hierarchies, container_of, text_of

ID = "0123456789abcdef" * 4
V1 = f"8:pids:/docker/{ID}\n6:freezer:/docker/{ID}\n0::/"
V2 = f"0::/system.slice/docker-{ID}.scope\n"
MOUNTED_V1 = "34 25 0:30 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer\n"
MOUNTED_V2 = "35 25 0:31 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
NESTED = "34 25 0:30 /docker/outer /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (V1, ID),
        (V2, ID),
        (f"0::/user.slice/libpod-{ID}.scope", ID),
        (f"0::/kubepods/pod1/outer/docker/{ID}\n", ID),
        ("0::/system.slice/docker.service\n", None),
        ("0::/\n", None),
        ("", None),
        (f"0::/docker/{ID}/inner\n", None),
        (f"0::/docker/x{ID}\n", None),
        (f"5:memory:/docker/{ID}\n0::/\n", None),
    ],
)
def test_a_process_is_in_a_container_by_the_name_of_its_control_group(groups: str, found: str | None) -> None:
    assert container_of(groups) == found


@pytest.mark.parametrize(
    ("mounts", "groups", "folder", "unified"),
    [
        (MOUNTED_V1, V1, f"/sys/fs/cgroup/freezer/docker/{ID}", False),
        (MOUNTED_V1 + MOUNTED_V2, V1, f"/sys/fs/cgroup/freezer/docker/{ID}", False),
        (MOUNTED_V2, V2, f"/sys/fs/cgroup/system.slice/docker-{ID}.scope", True),
        (MOUNTED_V1 + MOUNTED_V2, f"6:freezer:/\n{V2}", f"/sys/fs/cgroup/system.slice/docker-{ID}.scope", True),
        (NESTED, f"6:freezer:/docker/outer/docker/{ID}\n", f"/sys/fs/cgroup/freezer/docker/{ID}", False),
    ],
)
def test_the_control_group_is_found_where_it_is_mounted(mounts: str, groups: str, folder: str, unified: bool) -> None:
    group = Hierarchies(mounts).group(groups)

    assert group is not None
    assert (group.container_id, group.folder, group.unified) == (ID, folder, unified)


@pytest.mark.parametrize(
    ("mounts", "groups"),
    [(MOUNTED_V1, V2), (MOUNTED_V2, "0::/docker\n"), (NESTED, f"6:freezer:/docker/outermost/{ID}\n"), ("", V1)],
)
def test_a_control_group_that_is_not_mounted_is_none(mounts: str, groups: str) -> None:
    assert Hierarchies(mounts).group(groups) is None


@pytest.mark.parametrize("unified", [True, False], ids=["v2", "v1"])
def test_a_process_that_has_got_the_number_of_one_of_the_container_is_not_killed(tmp_path: Path, unified: bool) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "cgroup.procs").write_text(f"0\n{stranger.pid}\n{2**22 - 1}\n")
        (tmp_path / "freezer.state").write_text("THAWED\n")
        group = ControlGroup(ID, str(tmp_path), unified=unified)

        group.kill()

        assert group.pids() == ["0", str(stranger.pid), str(2**22 - 1)]
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.5)
        stranger.kill()
    assert (tmp_path / "freezer.state").read_text() == "THAWED\n"


@pytest.mark.parametrize("unified", [True, False], ids=["v2", "v1"])
def test_a_control_group_that_is_gone_has_no_process_and_killing_it_is_no_error(tmp_path: Path, unified: bool) -> None:
    group = ControlGroup(ID, str(tmp_path / "gone"), unified=unified)

    group.kill()

    assert group.pids() == []
    assert not group.is_frozen()


@pytest.mark.parametrize(
    ("file", "text", "unified", "frozen"),
    [
        ("freezer.state", "FROZEN\n", False, True),
        ("freezer.state", "FREEZING\n", False, True),
        ("freezer.state", "THAWED\n", False, False),
        ("cgroup.events", "populated 1\nfrozen 1\n", True, True),
        ("cgroup.events", "populated 1\nfrozen 0\n", True, False),
    ],
)
def test_frozen_is_as_the_kernel_says(tmp_path: Path, file: str, text: str, unified: bool, frozen: bool) -> None:
    (tmp_path / file).write_text(text)

    assert ControlGroup(ID, str(tmp_path), unified=unified).is_frozen() is frozen


def test_a_long_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 200_000 + b"\xff")

    assert len(text_of(str(tmp_path / "long"))) == 200_001
    assert text_of(os.devnull) == text_of(str(tmp_path / "missing")) == ""
