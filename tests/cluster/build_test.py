from pathlib import Path

import pytest

from tests.cluster.build import PROGRAMS, SOURCES, cache_folder, sources_digest


def test_digest_of_sources_changes_with_a_file_s_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module a\n")
    first = sources_digest(tmp_path)

    (tmp_path / "go.mod").write_text("module b\n")
    second = sources_digest(tmp_path)
    (tmp_path / "go.mod").rename(tmp_path / "go.sum")

    assert len({first, second, sources_digest(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"RUNTIME_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/the0-runtime")),
        ({}, Path.home() / ".cache/the0-runtime"),
    ],
)
def test_programs_are_kept_where_the_project_s_commands_keep_theirs(environment: dict[str, str], folder: Path) -> None:
    assert cache_folder(environment) == folder


def test_every_program_has_a_module_with_checksums() -> None:
    missing = [program.name for program in PROGRAMS if not (SOURCES / program.module / "go.sum").is_file()]

    assert missing == []
