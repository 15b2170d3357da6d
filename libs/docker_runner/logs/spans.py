"""Time, run and stream of output: stored beside the output, not in it.

A *span* is a stretch of output of one run and stream that arrived at one time. Output in a spool has its spans in the
same record. A day's object stays plain output, and an index object beside it has the spans, one block for each
addition. A block is written before its addition: what is in a day's object is always indexed, and the block's part
beyond the object's end is not there yet. A later block replaces the earlier information about the same bytes, which is
left of an addition that failed.

Times are exact to a millisecond. If the index would exceed two per cent of the output's size or 2 KiB for
each addition, times are coarser: neighbours share the time of the first.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

STREAMS = ("", "stdout", "stderr", "runtime")
"""The streams by their number in a span: unknown or mixed, the bot's two, and notes of the runtime in a log."""

RUNTIME = 3
_MIXED = 0
_FINEST_MICROSECONDS = 1000
_COARSEST_MICROSECONDS = 3600 * 1_000_000
_STREAMS_APART_MICROSECONDS = 1_000_000
_LEAST_SPAN_BYTES = 1
_LEAST_BLOCK_BYTES = 2048
_SHARE_OF_OUTPUT = 50
_MOST_BLOCK_BYTES = 4 * 1024 * 1024
_MOST_PACKED = 10_000
_MAGIC = b"\xa5IX1"
_HEAD = struct.Struct(">4sII")
_TAIL = struct.Struct(">I")


class Span(NamedTuple):
    """A number of bytes of output.

    Attributes:
        run: the run's id; empty when unknown.
        offset: size of the run's output before it, in bytes, without notes of the runtime.
        time_us: microseconds since 1970 by the engine's clock; 0 when unknown.
        stream: an index of :data:`STREAMS`.
    """

    run: str
    offset: int
    length: int
    time_us: int
    stream: int

    @property
    def end(self) -> int:
        """The size of the run's output up to its end."""
        return self.offset + (0 if self.stream == RUNTIME else self.length)


@dataclass(frozen=True)
class Block:
    """The spans of the bytes of a day's object from *at* on, in order and without gaps."""

    at: int
    spans: Sequence[Span]

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.at + sum(span.length for span in self.spans)

    @property
    def newest_us(self) -> int:
        """The latest time in it; 0 when unknown."""
        return max((span.time_us for span in self.spans), default=0)


def merged(spans: Iterable[Span], within_us: int = _FINEST_MICROSECONDS, *, mixing: bool = False) -> list[Span]:
    """Return *spans* with neighbours joined that continue each other *within_us*; with *mixing* also of two streams."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.run == span.run
            and last.end == span.offset
            and RUNTIME not in (last.stream, span.stream)
            and (mixing or last.stream == span.stream)
            and abs(span.time_us - last.time_us) < within_us
        ):
            stream = last.stream if last.stream == span.stream else _MIXED
            joined[-1] = Span(last.run, last.offset, last.length + span.length, last.time_us, stream)
        else:
            joined.append(span)
    return joined


def few(spans: Iterable[Span]) -> list[Span]:
    """Return *spans* of one record, which all continue each other, as exact as fits into a record."""
    within_us, joined = _FINEST_MICROSECONDS, merged(spans)
    while len(joined) > _MOST_PACKED:
        within_us *= 8
        joined = merged(joined, within_us, mixing=True)
    return joined


# --- in a spool


def pack(spans: Sequence[Span]) -> bytes:
    """Pack the spans of one record, which are all of one run and continue each other."""
    if not spans:
        return b""
    numbers = [spans[0].offset, *(number for span in spans for number in (span.length, span.time_us, span.stream))]
    run = spans[0].run.encode("utf-8", "surrogatepass")
    return struct.pack(f">HH{len(numbers)}Q", len(run), len(spans), *numbers) + run


def unpack(packed: bytes) -> list[Span]:
    """Unpack the result of :func:`pack`."""
    if not packed:
        return []
    run_bytes, count = struct.unpack_from(">HH", packed)
    offset, *numbers = struct.unpack_from(f">{1 + 3 * count}Q", packed, 4)
    run = packed[len(packed) - run_bytes :].decode("utf-8", "surrogatepass") if run_bytes else ""
    spans = []
    for at in range(0, 3 * count, 3):
        length, time_us, stream = numbers[at : at + 3]
        spans.append(Span(run, offset, length, time_us, stream))
        offset = spans[-1].end
    return spans


# --- in an index object


def encode(block: Block) -> bytes:
    """Return the block as stored in an index object, coarse enough to be small."""
    output_bytes = block.end - block.at
    limit = min(_MOST_BLOCK_BYTES, max(_LEAST_BLOCK_BYTES, output_bytes // _SHARE_OF_OUTPUT))
    within_us, spans, body = _FINEST_MICROSECONDS, merged(block.spans), None
    while body is None or (len(body) > limit and within_us < _COARSEST_MICROSECONDS):
        if body is not None or len(spans) * _LEAST_SPAN_BYTES > limit:
            # Compressing a block that cannot be small enough takes longer than everything else.
            within_us *= 4
            spans = merged(spans, within_us, mixing=within_us > _STREAMS_APART_MICROSECONDS)
        if len(spans) * _LEAST_SPAN_BYTES <= limit or within_us >= _COARSEST_MICROSECONDS:
            body = _body(Block(block.at, spans))
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body + _TAIL.pack(_HEAD.size + len(body) + _TAIL.size)


def decode(content: bytes) -> Iterator[tuple[Block, int]]:
    """Return the blocks at the beginning of *content*, each with the offset after it, up to an incomplete one."""
    at = 0
    while len(content) - at >= _HEAD.size:
        magic, length, checksum = _HEAD.unpack_from(content, at)
        body = content[at + _HEAD.size : at + _HEAD.size + length]
        end = at + _HEAD.size + length + _TAIL.size
        if magic != _MAGIC or end > len(content) or zlib.crc32(body) != checksum:
            return
        yield _block(body), end
        at = end


def last_block_begins(content: bytes) -> int | None:
    """Return where the last block in *content* begins; negative when before it, None when it ends without one."""
    if len(content) < _TAIL.size:
        return None
    (size,) = _TAIL.unpack(content[-_TAIL.size :])
    return len(content) - size if _HEAD.size < size <= _MOST_BLOCK_BYTES + _HEAD.size + _TAIL.size else None


def in_force(blocks: Iterable[Block]) -> Iterator[Block]:
    """Return *blocks* in the order of writing, without those that a later one replaces."""
    kept: list[Block] = []
    for block in blocks:
        while kept and kept[-1].at >= block.at:
            kept.pop()
        if len(kept) > 1:
            yield kept.pop(0)
        kept.append(block)
    yield from kept


def divided(block: Block, begin: int, end: int, most_bytes: int) -> Iterator[tuple[int, list[Span]]]:
    """Yield the spans of *block* within the bytes from *begin* to *end* of the object, in groups of *most_bytes*.

    Each group comes with the offset of its first byte in the object.
    """
    group: list[Span] = []
    group_at, group_bytes, at = begin, 0, block.at
    for span in block.spans:
        while span.length:
            cut = min(max(0, begin - at), span.length) or min(span.length, most_bytes - group_bytes, max(0, end - at))
            first, span = _cut(span, cut or span.length)
            if begin <= at < end:
                group.append(first)
                group_bytes += first.length
            at += first.length
            if group_bytes >= most_bytes:
                yield group_at, group
                group, group_at, group_bytes = [], at, 0
    if group:
        yield group_at, group


def _cut(span: Span, length: int) -> tuple[Span, Span]:
    """Split *span* in two, the first of them of *length* bytes."""
    counted = 0 if span.stream == RUNTIME else length
    return span._replace(length=length), span._replace(offset=span.offset + counted, length=span.length - length)


def _body(block: Block) -> bytes:
    runs = list(dict.fromkeys(span.run for span in block.spans))
    numbers = {run: number for number, run in enumerate(runs)}
    rows, time_us, next_offset = [], 0, dict.fromkeys(runs, 0)
    for span in block.spans:
        rows.append(
            [
                numbers[span.run],
                span.offset - next_offset[span.run],
                span.length,
                span.time_us // _FINEST_MICROSECONDS - time_us,
                span.stream,
            ]
        )
        time_us, next_offset[span.run] = span.time_us // _FINEST_MICROSECONDS, span.end
    return zlib.compress(json.dumps({"at": block.at, "runs": runs, "spans": rows}, separators=(",", ":")).encode(), 6)


def _block(body: bytes) -> Block:
    fields = json.loads(zlib.decompress(body))
    runs, spans, time_ms = fields["runs"], [], 0
    next_offset = [0] * len(runs)
    for number, skipped, length, later, stream in fields["spans"]:
        time_ms += later
        span = Span(runs[number], next_offset[number] + skipped, length, time_ms * _FINEST_MICROSECONDS, stream)
        next_offset[number] = span.end
        spans.append(span)
    return Block(fields["at"], spans)
