import fcntl
import os
from pathlib import Path

from tools.author.local.workplace import remove_abandoned

# No engine answers there: the containers of an active run must not even be listed.
NOWHERE = "unix:///nowhere.sock"


def test_folder_of_a_run_that_lives_stays(tmp_path: Path) -> None:
    folder = tmp_path / "local-1"
    folder.mkdir()
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned(tmp_path, tmp_path / "memory", NOWHERE)
    finally:
        os.close(lock)

    assert folder.exists()


def test_other_folders_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "local-without-lock").mkdir()

    remove_abandoned(tmp_path, tmp_path / "memory", NOWHERE)

    assert len(list(tmp_path.iterdir())) == 2
