"""Specs with secrets are in memory where that can be, and closed to other users."""

from pathlib import Path

import pytest

from libs.docker_runner.containers.keepalive_root import is_in_memory
from libs.docker_runner.containers.keepalive_root_test import Eyes
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.spec_root import SpecDirUnusable, spec_root, usual_spec_roots


@pytest.mark.skipif(not is_in_memory(Path("/dev/shm")), reason="/dev/shm is not in memory here")
async def test_usual_folder_is_in_memory_and_closed_to_others(tmp_path: Path) -> None:
    root = await spec_root(None, tmp_path, Eyes(Path("/")))
    RunFolders(tmp_path, root).prepare()

    assert root == usual_spec_roots()[0]
    assert root.stat().st_mode & 0o777 == 0o700


async def test_folder_that_the_engine_does_not_see_is_not_taken(tmp_path: Path) -> None:
    assert await spec_root(None, tmp_path, Eyes(tmp_path)) == tmp_path / "specs"


async def test_wanted_folder_is_made_and_closed(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"

    assert await spec_root(wanted, tmp_path, Eyes()) == wanted
    assert wanted.stat().st_mode & 0o777 == 0o700


async def test_wanted_folder_that_cannot_be_made_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SpecDirUnusable, match=r"SPEC_DIR .*file/specs"):
        await spec_root(tmp_path / "file" / "specs", tmp_path, Eyes())
