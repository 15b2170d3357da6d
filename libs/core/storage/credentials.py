"""The keys for the S3 server: from settings, or from files that may be replaced at any time."""

from collections.abc import Callable, Sequence
from pathlib import Path

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from libs.core.config.connection_settings import StorageSettings
from libs.core.transport.watched_files import FileRejected, WatchedFiles


class StorageCredentials(Provider):
    """Read for each request. May be used by several threads.

    Raises:
        FileRejected: a file is missing or empty.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._access_key = settings.access_key.get_secret_value()
        self._secret_key = settings.secret_key.get_secret_value()
        self._files: dict[str, WatchedFiles[str]] = {}
        named = {
            "MINIO_ACCESS_KEY_ID_FILE": settings.access_key_file,
            "MINIO_SECRET_ACCESS_KEY_FILE": settings.secret_key_file,
        }
        for setting, path in named.items():
            if path is not None:
                self._files[setting] = WatchedFiles([(setting, Path(path))], _key_of(setting))

    def retrieve(self) -> Credentials:
        """Return the current keys."""
        return Credentials(
            self._current("MINIO_ACCESS_KEY_ID_FILE", self._access_key),
            self._current("MINIO_SECRET_ACCESS_KEY_FILE", self._secret_key),
        )

    def _current(self, setting: str, fixed: str) -> str:
        return self._files[setting].value if setting in self._files else fixed


def _key_of(setting: str) -> Callable[[Sequence[bytes]], str]:
    def parse(contents: Sequence[bytes]) -> str:
        key = contents[0].decode(errors="replace").strip()
        if not key:
            raise FileRejected(setting, "it is empty")
        return key

    return parse
