"""Shared data sets in the storage: a small object for each name, which refers to content by its SHA-256.

``{prefix}names/{name}.json`` is replaced by one write, so a reader gets the previous or the new version.
``{prefix}content/{sha256}-{day}.tar.gz`` never changes. An upload uses the content of this day or of the day
before, and writes it otherwise. So content that is a week old can be removed when no name refers to it: no upload will
use it.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from libs.core.hostile_json import Bounds, Parsed, parse
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT = re.compile(r"content/[0-9a-f]{64}-[0-9]{1,6}\.tar\.gz")
_DAY_SECONDS = 86_400
_BOUNDS = Bounds(bytes=16 * 1024, depth=4, values=100)

REMOVABLE_SECONDS = 7 * _DAY_SECONDS
"""The age at which unreferenced content can be removed."""
NAME_RULE = "1 to 63 letters, digits, dots, dashes and underscores, and begins with a letter or a digit"


def is_data_name(name: object) -> bool:
    """Whether *name* can name a data set; see :data:`NAME_RULE`."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


class DataKind(StrEnum):
    """What a data set is: one file, or a folder of files."""

    FILE = "file"
    FOLDER = "folder"


SINGLE_FILE = "data"
"""The name of the one file in the archive of a data set that is a file."""


@dataclass(frozen=True)
class DataSet:
    """One version of a data set.

    Attributes:
        sha256: of the archive at *key*, whose object has this *etag*.
        total_bytes: of its files; *archive_bytes* of the archive.
        uploaded_at: RFC 3339.
        owner: who may replace or remove it, as OWNER_FIELD names owners; "" for one that everybody may.
    """

    name: str
    sha256: str
    key: str
    etag: str
    kind: DataKind
    files: int
    total_bytes: int
    archive_bytes: int
    uploaded_at: str = ""
    uploaded_by: str = ""
    owner: str = ""

    def to_json(self) -> bytes:
        """Return it as stored."""
        return json.dumps(asdict(self)).encode()


class DataCatalog:
    """The data sets in *bucket* below *prefix*. Every method may raise StorageUnavailable and StorageRejected."""

    def __init__(self, store: ObjectStore, bucket: str, prefix: str) -> None:
        self.store = store
        self.bucket = bucket
        self._prefix = prefix

    async def get(self, name: str) -> DataSet | None:
        """Return the current version; None when there is no such data set, or its description is unreadable."""
        try:
            return self.parsed(name, await self.store.get(self.bucket, self._name_key(name)))
        except ObjectMissing:
            return None

    async def all(self) -> AsyncIterator[DataSet]:
        """Yield the current versions, by name."""
        prefix = f"{self._prefix}names/"
        try:
            async for info in self.store.list(self.bucket, prefix):
                name = info.key.removeprefix(prefix).removesuffix(".json")
                if is_data_name(name) and (found := await self.get(name)) is not None:
                    yield found
        except ObjectMissing:
            return

    async def bytes_of(self, owner: str, *, besides: str = "") -> int:
        """Return the total bytes of the data sets of *owner*, without the one named *besides*."""
        return sum([one.total_bytes async for one in self.all() if one.owner == owner and one.name != besides])

    async def publish(self, data_set: DataSet) -> None:
        """Make *data_set* the current version of its name, atomically. May be repeated."""
        await self.store.put(self.bucket, self._name_key(data_set.name), data_set.to_json(), "application/json")

    async def remove(self, name: str) -> bool:
        """Remove the name, and return whether it existed. Its content is removed later, by the garbage collector."""
        if not is_data_name(name):
            return False
        try:
            await self.store.stat(self.bucket, self._name_key(name))
        except ObjectMissing:
            return False
        await self.store.remove(self.bucket, self._name_key(name))
        return True

    def content_keys(self, sha256: str, now: datetime) -> tuple[str, ...]:
        """Return the keys of content that an upload may use, the one to write first."""
        day = int(now.timestamp()) // _DAY_SECONDS
        return tuple(f"{self.content_prefix}{sha256}-{number}.tar.gz" for number in (day, day - 1))

    @property
    def content_prefix(self) -> str:
        """The beginning of all keys of content."""
        return f"{self._prefix}content/"

    async def referenced(self) -> set[str]:
        """Return the keys of content in all descriptions, also in those that only other versions can read."""
        found: set[str] = set()
        async for info in self.store.list(self.bucket, f"{self._prefix}names/"):
            try:
                content = await self.store.get(self.bucket, info.key)
            except ObjectMissing:
                continue
            found |= {f"{self._prefix}{match[0]}" for match in _CONTENT.finditer(content.decode("utf-8", "replace"))}
        return found

    def is_content(self, key: str) -> bool:
        """Whether *key* is one of content."""
        return key.startswith(self._prefix) and _CONTENT.fullmatch(key, len(self._prefix)) is not None

    def parsed(self, name: str, content: bytes) -> DataSet | None:
        """Return the data set *name* from the result of :meth:`DataSet.to_json`; None when it is none."""
        parsed = parse(content, _BOUNDS)
        read: Any = parsed.value if isinstance(parsed, Parsed) else None
        try:
            found = DataSet(
                name=name,
                sha256=str(read["sha256"]),
                key=str(read["key"]),
                etag=str(read["etag"]),
                kind=DataKind(read["kind"]),
                files=int(read["files"]),
                total_bytes=int(read["total_bytes"]),
                archive_bytes=int(read["archive_bytes"]),
                uploaded_at=str(read.get("uploaded_at", "")),
                uploaded_by=str(read.get("uploaded_by", "")),
                owner=str(read.get("owner", "")),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None
        is_sound = _SHA256.fullmatch(found.sha256) and self.is_content(found.key) and found.etag
        return found if is_sound and min(found.files, found.total_bytes, found.archive_bytes) >= 0 else None

    def _name_key(self, name: str) -> str:
        return f"{self._prefix}names/{name}.json"
