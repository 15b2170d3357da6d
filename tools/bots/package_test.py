import io
import os
import zipfile
from pathlib import Path

import pytest

from tools.bots.errors import BotFolderInvalid
from tools.bots.package import pack


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.namelist()


def test_the_same_files_give_the_same_bytes_whenever_they_were_written(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder, main_dot_py="x = 1", lib__b_dot_py="y = 2")
    os.utime(tmp_path / "a" / "main.py", (1, 1))

    assert pack(tmp_path / "a") == pack(tmp_path / "b")


def test_other_content_gets_another_digest(tmp_path: Path) -> None:
    write(tmp_path, main_dot_py="x = 1")
    before = pack(tmp_path).digest
    write(tmp_path, main_dot_py="x = 2")

    assert pack(tmp_path).digest != before


def test_dependencies_are_packed_and_caches_and_secrets_are_not(tmp_path: Path) -> None:
    write(tmp_path, main_dot_py="", vendor__lib_dot_py="", node_modules__x__index_dot_js="")
    write(tmp_path, _dot_npmrc="//registry.example.com/:_authToken=1", _dot_the0__bot_dot_schema_dot_json="{}")
    write(tmp_path, _dot_env="KEY=1", __pycache____main_dot_pyc="", _dot_git__config="")
    (tmp_path / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / "__pycache__" / "main.pyc").write_text("")

    assert names(pack(tmp_path).content) == ["main.py", "node_modules/x/index.js", "vendor/lib.py"]


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, secret="", bot__main_dot_py="")
    (tmp_path / "bot" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(BotFolderInvalid, match="to a file outside"):
        pack(tmp_path / "bot")


def test_a_link_within_the_folder_becomes_a_copy(tmp_path: Path) -> None:
    write(tmp_path, main_dot_py="", real__x_dot_py="")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)

    assert names(pack(tmp_path).content) == ["again/x.py", "main.py", "real/x.py"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BotFolderInvalid, match="has no files"):
        pack(tmp_path)


def test_overlays_replace_files_and_folders_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "bot", main_dot_py="", vendor__old_dot_py="", main_dot_cjs="old", vendored_dot_py="")
    write(tmp_path / "built", vendor__new_dot_py="", main_dot_cjs="new")
    overlays = {"vendor": tmp_path / "built" / "vendor", "main.cjs": tmp_path / "built" / "main.cjs"}

    package = pack(tmp_path / "bot", overlays)

    assert names(package.content) == ["main.cjs", "main.py", "vendor/new.py", "vendored.py"]
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        assert archive.read("main.cjs") == b"new"
    assert package.files == 4
