"""Measure the upload of logs: bytes sent for each byte that a bot has logged.

    python -m tests.benchmarks.logs [--megabytes 200] [--additions 120] [--output json]

A real S3 server, behind a proxy that counts all bytes sent, headers included. The output is added to the day's object
in as many equal parts as *additions*; 120 are an hour of one every 30 s. The baseline, taken in the same run, is one
plain put of the same bytes. The object is compared with what was logged, and the exit code is 1 when it differs or the
target of the design is missed.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import SecretStr

from libs.core.config.connection_settings import StorageSettings
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.logs.objects import LogObjects
from libs.docker_runner.logs.position import BEGINNING, Position
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import LogSpool
from libs.docker_runner.logs.uploader import LogUploader
from tools.stack.s3 import S3Server

MB = 1_000_000
TARGET_SENT_PER_LOGGED = 1.2
_BATCH_BYTES = 64 * 1024
_LINE_BYTES = 64


@dataclass(frozen=True)
class LogFigures:
    """What one run measured. *sent_per_logged* counts all bytes sent to the server, *put_per_logged* only content.

    *requests_per_addition* is the number of requests for each; *baseline_per_logged* is that of a plain put.
    """

    logged_bytes: int
    additions: int
    sent_per_logged: float
    put_per_logged: float
    baseline_per_logged: float
    requests_per_addition: float
    seconds: float
    whole: bool

    @property
    def good(self) -> bool:
        """Whether the object is right and the design's target is met, which is for 200 MB: the filler has 5 MiB."""
        return self.whole and (self.logged_bytes < 190 * MB or self.sent_per_logged <= TARGET_SENT_PER_LOGGED)


class CountingProxy:
    """Forwards to a server on this machine, and counts the bytes that go to it."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.sent_bytes = 0
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["CountingProxy"]:
        """Listen during the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(
            self._copy(reader, up_writer, count=True),
            self._copy(up_reader, writer, count=False),
            return_exceptions=True,
        )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        try:
            while data := await reader.read(256 * 1024):
                if count:
                    self.sent_bytes += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


class CountingStore(ObjectStore):
    """The real store, which counts its calls."""

    calls = 0

    async def _run(self, *arguments, **options):  # type: ignore[no-untyped-def]
        self.calls += 1
        return await super()._run(*arguments, **options)


async def measure(server: S3Server, folder: Path, megabytes: int, additions: int) -> LogFigures:
    """Log *megabytes* in *additions* equal parts to a new bucket of *server*."""
    async with CountingProxy(server.port).running() as proxy:
        store = CountingStore(
            StorageSettings(
                endpoint=f"127.0.0.1:{proxy.port}",
                access_key=SecretStr(S3Server.access_key),
                secret_key=SecretStr(S3Server.secret_key),
            )
        )
        bucket = f"bench-{os.urandom(6).hex()}"
        await store.ensure_bucket(bucket)
        part = os.urandom(megabytes * MB // additions)
        whole = part * additions

        before = proxy.sent_bytes
        await store.put(bucket, "baseline", whole)
        baseline = proxy.sent_bytes - before

        before, calls, put = proxy.sent_bytes, store.calls, store.bytes_sent
        begun = time.perf_counter()
        with ThreadPoolExecutor(2) as executor:
            spool = LogSpool(folder)
            uploader = LogUploader(spool, LogObjects(store, bucket), executor)
            position = BEGINNING
            for _ in range(additions):
                for at in range(0, len(part), _BATCH_BYTES):
                    payload = part[at : at + _BATCH_BYTES]
                    spans = _lines_of(payload, position)
                    position = position.taking(position.newest_ns + len(spans) * 1_000_000, len(payload))
                    await asyncio.to_thread(spool.append, "container", "20260131", payload, position, spans)
                await uploader.upload(lambda day: f"logs/bot/{day}.log")
        seconds = time.perf_counter() - begun
        figures = LogFigures(
            logged_bytes=len(whole),
            additions=additions,
            sent_per_logged=(proxy.sent_bytes - before) / len(whole),
            put_per_logged=(store.bytes_sent - put) / len(whole),
            baseline_per_logged=baseline / len(whole),
            requests_per_addition=(store.calls - calls) / additions,
            seconds=seconds,
            whole=await store.get(bucket, "logs/bot/20260131.log") == whole,
        )
        await store.close()
        return figures


def _lines_of(payload: bytes, before: Position) -> list[Span]:
    """Return the payload as lines, one each millisecond, so that the index is as large as possible."""
    starts = range(0, len(payload), _LINE_BYTES)
    return [
        Span(
            "run",
            before.taken_bytes + at,
            min(_LINE_BYTES, len(payload) - at),
            before.newest_ns // 1000 + number * 1000,
            1 + number % 2,
        )
        for number, at in enumerate(starts)
    ]


async def run(megabytes: int, additions: int) -> LogFigures:
    """Measure on a server of this run."""
    with tempfile.TemporaryDirectory() as directory:
        async with S3Server.start(Path(directory) / "s3") as server:
            return await measure(server, Path(directory) / "spool", megabytes, additions)


def main() -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--additions", type=int, default=120)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    figures = asyncio.run(run(options.megabytes, options.additions))
    if options.output == "json":
        print(json.dumps(asdict(figures)))
    else:
        for name, value in asdict(figures).items():
            print(f"{name:24} {value:.4f}" if isinstance(value, float) else f"{name:24} {value}")
        print(
            f"{'target for 200 MB':24} {TARGET_SENT_PER_LOGGED} sent_per_logged: {'met' if figures.good else 'MISSED'}"
        )
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
