"""The frames of a stream from the engine."""

import asyncio

import pytest

from libs.docker_runner.engine.http import read_frame
from libs.docker_runner.errors import EngineUnavailable

STDERR = b"\x02\0\0\0\0\0\0\x02"


def stream(content: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return reader


async def test_frames_are_read_one_by_one_until_the_end() -> None:
    reader = stream(STDERR + b"ab" + STDERR + b"cd")

    assert [await read_frame(reader, "logs", 2) for _ in range(3)] == [(2, b"ab"), (2, b"cd"), None]


@pytest.mark.parametrize("content", [STDERR[:3], STDERR, STDERR + b"a"])
async def test_stream_that_ends_within_a_frame_is_broken(content: bytes) -> None:
    with pytest.raises(EngineUnavailable, match="ended prematurely"):
        await read_frame(stream(content), "logs")


async def test_frame_beyond_the_limit_is_not_read() -> None:
    with pytest.raises(EngineUnavailable, match="no stream"):
        await read_frame(stream(STDERR + b"ab"), "logs", 1)
