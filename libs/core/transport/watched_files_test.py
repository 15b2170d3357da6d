from collections.abc import Sequence
from pathlib import Path

import pytest

from libs.core.transport.watched_files import FileRejected, WatchedFiles


def number(contents: Sequence[bytes]) -> int:
    try:
        return sum(int(content) for content in contents)
    except ValueError:
        raise FileRejected("NUMBER_FILE", "it is no number") from None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


def watched(*files: Path) -> WatchedFiles[int]:
    return WatchedFiles([("NUMBER_FILE", file) for file in files], number)


def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_replaced_file_gives_new_value_and_version(file: Path) -> None:
    value = watched(file)
    before = value.versioned()

    replace(file, "2")

    assert (before, value.versioned()) == ((1, 1), (2, 2))


def test_file_behind_a_replaced_link_gives_new_value(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "number").write_text({"one": "1", "two": "2"}[folder])
    link = tmp_path / "data"
    link.symlink_to("one")
    value = watched(link / "number")

    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(link)

    assert value.value == 2


@pytest.mark.parametrize("text", ["", "x", "9" * 2_000_000])
def test_invalid_replacement_keeps_value_until_a_valid_one(file: Path, text: str) -> None:
    value = watched(file)

    replace(file, text)
    kept = value.versioned()
    replace(file, "3")

    assert kept == (1, 1)
    assert value.versioned() == (2, 3)


def test_removed_file_keeps_value(file: Path) -> None:
    value = watched(file)

    file.unlink()

    assert value.versioned() == (1, 1)


def test_same_content_in_a_new_file_keeps_version(file: Path) -> None:
    value = watched(file)

    replace(file, "1")

    assert value.versioned() == (1, 1)


def test_missing_file_is_refused_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(FileRejected, match=r"NUMBER_FILE: '.*absent' cannot be read \(No such file"):
        watched(tmp_path / "absent")
