"""Where the keys for the S3 server come from."""

from pathlib import Path

import pytest

from libs.core.config.connection_settings import StorageSettings
from libs.core.config.settings_loader import load
from libs.core.storage.credentials import StorageCredentials


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "id").write_text("id-1\n")
    (tmp_path / "secret").write_text("secret-1\n")
    return {"MINIO_ACCESS_KEY_ID_FILE": f"{tmp_path}/id", "MINIO_SECRET_ACCESS_KEY_FILE": f"{tmp_path}/secret"}


def keys(credentials: StorageCredentials) -> tuple[str, str]:
    found = credentials.retrieve()
    return found.access_key, found.secret_key


def test_replaced_files_are_used_for_the_next_request(files: dict[str, str], tmp_path: Path) -> None:
    credentials = StorageCredentials(load(StorageSettings, environ=files))
    assert keys(credentials) == ("id-1", "secret-1")

    (tmp_path / "secret").write_text("secret-22\n")

    assert keys(credentials) == ("id-1", "secret-22")


def test_file_that_was_replaced_since_settings_were_read_is_used(files: dict[str, str], tmp_path: Path) -> None:
    settings = load(StorageSettings, environ=files)
    (tmp_path / "secret").write_text("secret-22\n")
    credentials = StorageCredentials(settings)

    assert keys(credentials) == ("id-1", "secret-22")
    (tmp_path / "secret").write_text("secret-333\n")
    assert keys(credentials) == ("id-1", "secret-333")


def test_key_that_is_set_itself_has_precedence_over_its_file(files: dict[str, str]) -> None:
    environ = files | {"MINIO_ACCESS_KEY_ID": "set", "MINIO_SECRET_ACCESS_KEY": "too"}

    assert keys(StorageCredentials(load(StorageSettings, environ=environ))) == ("set", "too")
