"""The link beside a bot's code."""

from pathlib import Path

from libs.docker_runner.code.result_link import NAME, TARGET, link_result


def test_link_is_made_once_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    link_result(tmp_path)
    before = (tmp_path / NAME).lstat()
    link_result(tmp_path)

    assert str((tmp_path / NAME).readlink()) == TARGET == "/run/the0/written/result.json"
    assert (tmp_path / NAME).lstat() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main.py", NAME]


def test_file_of_that_name_in_the_archive_is_replaced(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"status": "success"}')
    link_result(tmp_path)

    assert str((tmp_path / NAME).readlink()) == TARGET


def test_link_of_that_name_in_the_archive_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("1")
    (tmp_path / NAME).symlink_to("old.json")
    link_result(tmp_path)

    assert str((tmp_path / NAME).readlink()) == TARGET
    assert (tmp_path / "old.json").read_text() == "1"


def test_folder_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    link_result(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).is_dir()
