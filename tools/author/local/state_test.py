import os
from pathlib import Path

import pytest

from libs.core.saved_state import SavedState
from libs.docker_runner.state.archives import StateContent, StateFile, StateLimits, compress, tar_of
from tools.author.local.state import LocalStates, read_state, state_folder, write_state
from tools.bots.errors import BotFolderInvalid

LIMITS = StateLimits(size=1000)
FILES = [StateFile(b"a", b"1", 0o644), StateFile(b"keys", None, 0o755), StateFile(b"keys/b.json", b"{}", 0o600)]


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    with state_folder(tmp_path / "state") as folder:
        write_state(folder, FILES)

        assert list(read_state(folder, LIMITS)) == FILES


def test_write_replaces_the_former_content_and_leaves_nothing_beside(tmp_path: Path) -> None:
    with state_folder(tmp_path / "state") as folder:
        (folder / "old").write_text("x")
        write_state(folder, FILES[:1])

    assert contents(folder) == {"a": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state.lock", "state"]


def test_folder_of_a_run_that_was_killed_between_the_renames_is_recovered(tmp_path: Path) -> None:
    (tmp_path / ".state.old").mkdir()
    (tmp_path / ".state.old" / "a").write_text("1")
    (tmp_path / ".state.new-1").mkdir()

    with state_folder(tmp_path / "state") as folder:
        assert contents(folder) == {"a": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state.lock", "state"]


def test_new_content_counts_where_the_old_one_was_not_removed(tmp_path: Path) -> None:
    for name in (".state.old", "state"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)

    with state_folder(tmp_path / "state") as folder:
        assert contents(folder) == {"a": "state"}


def test_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    with state_folder(tmp_path / "state") as folder:
        second = state_folder(folder)
        with pytest.raises(BotFolderInvalid, match="in use by another run"):
            second.__enter__()


def test_file_is_no_folder_for_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    with pytest.raises(BotFolderInvalid, match="name a folder below it"), state_folder(tmp_path / "state"):
        raise AssertionError


def test_links_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "state" / "pipe")

    assert list(read_state(tmp_path / "state", LIMITS)) == []


def test_folder_that_is_larger_than_a_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1001))

    with pytest.raises(BotFolderInvalid, match="1000 bytes"):
        list(read_state(tmp_path, LIMITS))


async def test_run_begins_with_the_folder_and_its_last_save_is_the_folder(tmp_path: Path) -> None:
    with state_folder(tmp_path / "state") as folder:
        write_state(folder, FILES)
        states = LocalStates(folder, LIMITS, tmp_path)

        claimed = await states.claim("b", segment=0, epoch=0, run_id="r")
        assert claimed is not None
        assert claimed.latest is not None
        assert claimed.may_save("r", 0)
        await states.fetch(claimed.latest, tmp_path / "fetched")
        assert (tmp_path / "fetched").stat().st_size == claimed.latest.archive_bytes

        content = archive(tmp_path / "saved", [StateFile(b"a", b"2")])
        await save(states, tmp_path / "saved", content)
        assert contents(folder) == {"a": "2"}


async def test_empty_folder_is_an_empty_state(tmp_path: Path) -> None:
    with state_folder(tmp_path / "state") as folder:
        claimed = await LocalStates(folder, LIMITS, tmp_path).claim("b", segment=0, epoch=0, run_id="r")

    assert claimed == SavedState(run_id="r")


def archive(path: Path, files: list[StateFile]) -> StateContent:
    path.with_suffix(".tar").write_bytes(tar_of(files, 0))
    with path.with_suffix(".tar").open("rb") as tar:
        return compress(tar, path, LIMITS)


async def save(states: LocalStates, path: Path, content: StateContent) -> None:
    await states.save("b", path, content, run_id="r", epoch=0, origin="run", may_save=lambda state: True)
