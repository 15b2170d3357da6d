"""Read the index of a stored log: from its start, or the newest blocks first."""

from collections.abc import AsyncGenerator

from libs.core.storage.errors import BucketMissing, ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.logs.keys import index_key
from libs.docker_runner.logs.spans import Block, decode, in_force, last_block_begins

_READ_BYTES = 1024 * 1024
_TAIL_READ_BYTES = 64 * 1024
_MOST_TAIL_BYTES = 64 * 1024 * 1024


async def blocks(
    store: ObjectStore, bucket: str, log_key: str, *, from_byte: int = 0, from_us: int = 0
) -> AsyncGenerator[Block, None]:
    """Return the valid blocks of the log at *log_key*, in byte order; none for a log without index.

    Args:
        from_byte, from_us: skip blocks at the beginning that are before this byte, and older than this time.
    """
    key = index_key(log_key)
    try:
        size = (await store.stat(bucket, key)).size
        offset, content = 0, b""
        if from_byte or from_us:
            offset, content = await _newest(store, bucket, key, size, from_byte, from_us)
        pending: list[Block] = []
        while offset < size:
            if not content:
                content = await store.get(bucket, key, offset=offset, length=min(_READ_BYTES, size - offset))
            taken = 0
            for block, end in decode(content):
                pending.append(block)
                taken = end
            offset += taken
            rest = content[taken:]
            if not taken:
                # A block is larger than the bytes read, or the object is damaged.
                more = await store.get(bucket, key, offset=offset + len(rest), length=_READ_BYTES)
                if not more or len(rest) > _MOST_TAIL_BYTES:
                    break
                content = rest + more
                continue
            content = rest if offset + len(rest) >= size and rest else b""
            # A later block may replace the last two.
            ready = list(in_force(pending))
            pending = ready[-2:]
            for block in ready[:-2]:
                yield block
        for block in in_force(pending):
            yield block
    except (BucketMissing, ObjectMissing):
        return


async def _newest(
    store: ObjectStore, bucket: str, key: str, size: int, from_byte: int, from_us: int
) -> tuple[int, bytes]:
    """Return the end of the index with all wanted blocks, and its offset; the whole index when in doubt."""
    content, begins, at = b"", size, size
    while at > 0 and size - begins <= _MOST_TAIL_BYTES:
        found = last_block_begins(content[: at - begins]) if at > begins else None
        if found is None or found < 0:
            if begins == 0 or (found is None and at > begins):
                return 0, b""
            length = min(begins, max(_TAIL_READ_BYTES, len(content)))
            content = await store.get(bucket, key, offset=begins - length, length=length) + content
            begins -= length
            continue
        block = next(decode(content[found : at - begins]), None)
        if block is None:
            return 0, b""
        at = begins + found
        if (from_byte and block[0].at <= from_byte) or (from_us and block[0].newest_us < from_us):
            break
    return at, content[at - begins :]
