"""Kill real processes by control groups of version 2, which engines on newer hosts use. Needs root, and no engine."""

import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from libs.docker_runner.entrypoints.agent.control_groups import ControlGroup, Hierarchies, text_of
from tests.support.eventually import eventually

# The hierarchy is one for the whole machine, and may have what a killed test has left.
ID = secrets.token_hex(32)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """The hierarchy of version 2, mounted for the test."""
    point = tmp_path / "unified"
    point.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "cgroup2", "none", str(point)], check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("mounting control groups needs root")
        pytest.skip("mounting control groups needs root")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


@pytest_asyncio.fixture(loop_scope="session")
async def folder(mounted: Path) -> AsyncIterator[Path]:
    """A control group with a container's name."""
    folder = mounted / f"docker-{ID}.scope"
    folder.mkdir()
    yield folder
    (folder / "cgroup.kill").write_text("1")
    await eventually(lambda: is_removed(folder))


def is_removed(folder: Path) -> bool:
    """Remove a control group; OSError as long as it has processes."""
    folder.rmdir()
    return True


@contextmanager
def shell_in(folder: Path, script: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A shell that has joined the control group before it runs *script*."""
    with subprocess.Popen(["sh", "-c", f'echo $$ > "$0/cgroup.procs"; {script}', str(folder)]) as shell:
        try:
            yield shell
        finally:
            shell.kill()


async def test_all_processes_of_a_frozen_control_group_are_killed(mounted: Path, folder: Path) -> None:
    with shell_in(folder, "sleep 600 & sleep 600 & wait") as shell:
        await eventually(lambda: len(text_of(f"{folder}/cgroup.procs").split()) == 3)
        group = Hierarchies(text_of("/proc/self/mountinfo")).group(text_of(f"/proc/{shell.pid}/cgroup"))
        assert group is not None
        assert group.folder == str(folder)
        (folder / "cgroup.freeze").write_text("1")
        await eventually(group.is_frozen)

        group.kill()

        await eventually(lambda: group.pids() == [])
        assert shell.wait(10) == -9


async def test_without_cgroup_kill_each_process_is_signalled(folder: Path, tmp_path: Path) -> None:
    with shell_in(folder, "exec sleep 600") as shell:
        await eventually(lambda: text_of(f"{folder}/cgroup.procs").split() == [str(shell.pid)])
        # As on an older kernel: the same processes, and no file cgroup.kill.
        older = tmp_path / "older"
        older.mkdir()
        (older / "cgroup.procs").write_text(f"{shell.pid}\n")

        ControlGroup(ID, str(older), unified=True).kill()

        assert shell.wait(10) == -9
