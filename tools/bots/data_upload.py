"""Upload a file or folder as a shared data set. The same files give the same bytes, which are uploaded once."""

import gzip
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from libs.core.errors import UserError
from libs.core.room import MIB
from libs.core.storage.data_sets import NAME_RULE, SINGLE_FILE, DataCatalog, DataKind, DataSet, is_data_name
from libs.core.storage.errors import ObjectMissing

_LEVEL = 3
_MOST_FILES = 60_000
_MOST_PATH_BYTES = 1024
_MOST_OWNER_CHARACTERS = 200


class DataInvalid(UserError):
    """The file or folder, the name, or the owner's name, cannot be that of a data set."""


class DataRefused(UserError):
    """The owner may not do this with the data set."""


@dataclass(frozen=True)
class PackedData:
    """The archive of a data set, in a temporary file. *total_bytes* are those of its files."""

    path: Path
    sha256: str
    kind: DataKind
    files: int
    total_bytes: int


def check_name(name: str) -> None:
    """Raise DataInvalid unless *name* can name a data set."""
    if not is_data_name(name):
        raise DataInvalid(f"{name!r} cannot name a data set: a name has {NAME_RULE}")


@contextmanager
def packed(source: Path) -> Iterator[PackedData]:
    """Pack a file or folder into a temporary archive, for the block. Blocks; needs no memory for its size.

    Raises:
        DataInvalid: it has no file, a link leads out of it, or a file changed meanwhile; with the remedy.
    """
    if not source.is_dir() and not source.is_file():
        raise DataInvalid(f"{source} is neither a file nor a folder")
    kind = DataKind.FOLDER if source.is_dir() else DataKind.FILE
    files = list(_files(source)) if kind is DataKind.FOLDER else [(source, SINGLE_FILE)]
    if not files:
        raise DataInvalid(f"{source} has no files")
    if len(files) > _MOST_FILES:
        raise DataInvalid(
            f"{source} has {len(files):,} files; at most {_MOST_FILES:,} are accepted; put them into fewer"
        )
    with tempfile.TemporaryDirectory(prefix="the0-data-") as folder:
        archive = Path(folder) / "data.tar.gz"
        total = 0
        with (
            archive.open("wb") as raw,
            gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path, name in files:
                total += _add(tar, path, name)
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield PackedData(archive, digest, kind, len(files), total)


def check_owner(owner: str) -> None:
    """Raise DataInvalid unless *owner* can own data sets."""
    if not owner.strip() or not owner.isprintable() or len(owner) > _MOST_OWNER_CHARACTERS:
        raise DataInvalid(f"{owner!r} cannot own a data set: an owner has 1 to {_MOST_OWNER_CHARACTERS} characters")


def refuse_other(known: DataSet | None, owner: str) -> None:
    """Raise DataRefused if the data set *known* has another owner than *owner*."""
    if known is not None and known.owner not in ("", owner):
        raise DataRefused(
            f"data set {known.name!r} is of owner {known.owner!r}, and not of {owner!r}; choose another name, or name "
            f"its owner with --owner"
        )


async def refuse_beyond_quota(catalog: DataCatalog, name: str, data: PackedData, owner: str, quota_bytes: int) -> None:
    """Raise DataRefused if *data* as *name* exceeds the quota of *owner*; *quota_bytes* is 0 for none."""
    if quota_bytes == 0:
        return
    used = await catalog.bytes_of(owner, besides=name)
    if used + data.total_bytes > quota_bytes:
        raise DataRefused(
            f"quota of owner {owner!r}: other data sets have {used / MIB:,.1f} MiB of {quota_bytes / MIB:,.1f}, and "
            f"{name!r} has {data.total_bytes / MIB:,.1f} (QUOTA_DATA_MB); remove some, see `runtime bot data ls`"
        )


async def upload_data(
    catalog: DataCatalog, name: str, data: PackedData, by: str, owner: str = ""
) -> tuple[DataSet, bool]:
    """Make *data* the current version of *name*; return it, and whether it differs from the previous one.

    The name refers to its content only after that is stored, so readers never see a part. May be repeated.

    Raises:
        DataRefused: the name belongs to another owner.
        Retryable: the storage is unreachable.
        Permanent: the storage rejects it.
    """
    store, bucket = catalog.store, catalog.bucket
    await store.ensure_bucket(bucket)
    refuse_other(previous := await catalog.get(name), owner)
    size = data.path.stat().st_size
    fresh = catalog.content_keys(data.sha256, await store.now(bucket))
    key, etag = fresh[0], ""
    for used in fresh:
        try:
            found = await store.stat(bucket, used)
        except ObjectMissing:
            continue
        if found.size == size:
            key, etag = used, found.etag
            break
    if not etag:
        await store.put_file(bucket, key, data.path, "application/gzip")
        etag = (await store.stat(bucket, key)).etag
    made = DataSet(
        name=name,
        sha256=data.sha256,
        key=key,
        etag=etag,
        kind=data.kind,
        files=data.files,
        total_bytes=data.total_bytes,
        archive_bytes=size,
        uploaded_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        uploaded_by=by,
        owner=owner,
    )
    # The upload took its time.
    refuse_other(await catalog.get(name), owner)
    await catalog.publish(made)
    is_same = previous is not None and (
        (previous.sha256, previous.kind, previous.owner) == (made.sha256, made.kind, made.owner)
    )
    return made, not is_same


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files with their names in the archive, in a fixed order."""
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(folders + names):
            path = Path(parent) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DataInvalid(f"{path} is a link that leads out of {folder}; replace it by a copy")
            if path.is_symlink() and path.is_dir():
                raise DataInvalid(f"{path} is a link to a folder; replace it by a copy")
            if path.is_file():
                yield path, _checked(path.relative_to(folder).as_posix(), path)


def _checked(name: str, path: Path) -> str:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise DataInvalid(f"{os.fsencode(path)!r} has a name that is not UTF-8; rename it") from None
    if len(encoded) > _MOST_PATH_BYTES:
        raise DataInvalid(f"{path} has a name of more than {_MOST_PATH_BYTES} bytes; shorten it")
    return name


def _add(tar: tarfile.TarFile, path: Path, name: str) -> int:
    """Add one file, and return its size."""
    try:
        with path.open("rb") as file:
            entry = tarfile.TarInfo(name)
            entry.size = os.fstat(file.fileno()).st_size
            entry.mode = 0o644
            tar.addfile(entry, file)
            if file.read(1):
                raise DataInvalid(f"{path} grew while it was read; upload it when it is complete")
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read completely: {error.strerror or error}") from error
    return entry.size
