"""Pack a bot's folder as one ZIP file. The same files give the same bytes, so that deploying twice changes nothing."""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from libs.docker_runner.code.archives import extract
from libs.docker_runner.errors import DockerRunnerError
from tools.bots.errors import BotFolderInvalid

EDITOR_FOLDER = ".the0"
"""A folder in the bot's folder for editors and tools, which is not packed."""

_LEFT_OUT_FOLDERS = {
    *(EDITOR_FOLDER, ".git", ".hg", ".venv", "venv"),
    *("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
}
# The last three hold tokens of registries.
_LEFT_OUT_FILES = {".DS_Store", ".env", ".netrc", ".npmrc", ".pypirc"}
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """The archive of a bot. *digest* is the SHA-256 of *content*."""

    content: bytes
    digest: str
    files: int


def pack(folder: Path, overlays: Mapping[str, Path] = MappingProxyType({})) -> Package:
    """Pack the folder, and check the archive by the workers' rules for unpacking.

    Args:
        overlays: files and folders from elsewhere, by their path in the package; they replace those of the folder.

    Version control, `.the0`, caches, virtual environments, `.env` and credentials of registries are excluded;
    `vendor` and `node_modules` are not.

    Raises:
        BotFolderInvalid: it has no file, a link leads out of it, or workers would reject it; with the reason.
    """
    buffer = io.BytesIO()
    count = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_named(folder, overlays)):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
            count += 1
    if count == 0:
        raise BotFolderInvalid(f"{folder} has no files")
    content = buffer.getvalue()
    _check(folder, content)
    return Package(content, hashlib.sha256(content).hexdigest(), count)


def _named(folder: Path, overlays: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in overlays and name.partition("/")[0] not in overlays:
            yield name, path
    for name, path in overlays.items():
        if path.is_dir():
            yield from ((f"{name}/{file.relative_to(path).as_posix()}", file) for file in _files(path))
        else:
            yield name, path


def _files(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in _LEFT_OUT_FOLDERS and not _is_loop(Path(parent) / name)]
        for name in files:
            path = Path(parent) / name
            if name in _LEFT_OUT_FILES:
                continue
            if not path.resolve().is_relative_to(root):
                raise BotFolderInvalid(f"{path} is a link to a file outside {folder}; replace it by a copy")
            if path.is_file():
                yield path


def _is_loop(path: Path) -> bool:
    """Whether the folder is a link to one of its own parents, which would be walked endlessly."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _check(folder: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="the0-check-") as temporary:
        archive = Path(temporary) / "bot.zip"
        archive.write_bytes(content)
        try:
            extract(archive, Path(temporary) / "bot", str(folder))
        except DockerRunnerError as error:
            raise BotFolderInvalid(f"workers would reject this bot: {error}") from error
