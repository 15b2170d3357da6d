import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tools.engine.ensure import ensure_engine, why_none_can_be_started
from tools.engine.errors import EngineMissingError
from tools.engine.probe import DEFAULT_SOCKET, why_not


@contextlib.asynccontextmanager
async def answering(path: Path, status: str) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nOK".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield f"unix://{path}"


async def test_an_engine_that_answers_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(tmp_path / "s", "200 OK") as url:
        monkeypatch.setenv("DOCKER_HOST", url)

        assert (await ensure_engine()).url == url


async def test_an_engine_that_answers_with_an_error_does_not_count(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", "503 Busy") as url:
        assert await asyncio.to_thread(why_not, url) == "it answered HTTP 503"


async def test_an_engine_that_was_named_is_never_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")

    with pytest.raises(EngineMissingError, match=r"no Docker engine answers at DOCKER_HOST=unix:.*unset DOCKER_HOST"):
        await ensure_engine()


def test_unprivileged_user_gets_remedy_for_missing_engine() -> None:
    advice = why_none_can_be_started(f"unix://{DEFAULT_SOCKET}", "no such file", root=False)

    assert advice is not None
    assert "docker" in advice
    assert "\n" not in advice
