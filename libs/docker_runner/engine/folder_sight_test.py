"""What is made of what a look has shown: no engine."""

from pathlib import Path

import pytest

from libs.docker_runner.engine.folder_sight import KEEPALIVE_DIR, TEMP_DIR, UNKNOWN, FolderCheck, complaint, read_by

NAMES = [TEMP_DIR, KEEPALIVE_DIR]


WORK, OURS, MEMORY = "/tmp/runtime", "/var/lib/the0", "/run/keepalive"
ONE = "mount the same folder at the same path in the engine's container"
BOTH = "mount the same folders at the same paths in the engine's container"
OR_ELSE = ", or set TEMP_DIR=/var/lib/the0"


@pytest.mark.parametrize(
    ("unseen", "text"),
    [
        ({TEMP_DIR: WORK}, f"TEMP_DIR=/tmp/runtime: {ONE}{OR_ELSE}"),
        ({TEMP_DIR: OURS}, f"TEMP_DIR=/var/lib/the0: {ONE}"),
        ({KEEPALIVE_DIR: MEMORY}, f"KEEPALIVE_DIR=/run/keepalive: {ONE}"),
        (
            {TEMP_DIR: WORK, KEEPALIVE_DIR: MEMORY},
            f"TEMP_DIR=/tmp/runtime and KEEPALIVE_DIR=/run/keepalive: {BOTH}{OR_ELSE}",
        ),
    ],
)
def test_complaint_names_the_settings_and_the_remedy(unseen: dict[str, str], text: str) -> None:
    assert complaint({name: Path(path) for name, path in unseen.items()}) == f"the Docker engine does not see {text}"


def test_without_an_unseen_folder_there_is_no_complaint() -> None:
    assert complaint({}) == ""


@pytest.mark.parametrize(
    ("exit_code", "checked"),
    [
        (0, FolderCheck()),
        (65, FolderCheck(frozenset([TEMP_DIR]))),
        (66, FolderCheck(frozenset([KEEPALIVE_DIR]))),
        (67, FolderCheck(frozenset(NAMES))),
    ],
)
def test_reader_that_ends_by_itself_shows_which_folders_are_seen(exit_code: int, checked: FolderCheck) -> None:
    assert read_by(exit_code, NAMES) == checked


@pytest.mark.parametrize("exit_code", [None, 1, 2, 64, 68, 125, 126, 127, 137, 143])
def test_reader_that_fails_or_is_killed_shows_nothing(exit_code: int | None) -> None:
    assert read_by(exit_code, NAMES) == UNKNOWN
