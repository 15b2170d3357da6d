from pathlib import Path

import pytest

from tools.toolchains.packages import cache_folder


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"RUNTIME_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/the0-runtime")),
        ({}, Path.home() / ".cache/the0-runtime"),
    ],
)
def test_packages_are_kept_where_the_project_s_commands_keep_theirs(environment: dict[str, str], folder: Path) -> None:
    assert cache_folder(environment) == folder
