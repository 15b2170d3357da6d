"""Measure queries of a running bot: from the request at the master to the answer of the bot's own code.

    python -m tests.benchmarks.queries [--queries 500] [--output json]

Real servers, a master and one worker as processes of their own, and the machine's Docker engine; the bot has the SDK.
The baseline is the SDK's server without all that: a process of this machine, over loopback. The exit code is 1 when the
95th percentile is above the target.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.benchmarks.starts import percentile
from tests.benchmarks.with_engine import with_engine
from tests.support.eventually import eventually
from tests.support.rigs.deployment import deployment
from tests.support.rigs.platform import zipped
from tests.support.sdk import sdk_files
from tools.engine.ensure import Engine
from tools.stack.ports import free_port

TARGET_MILLISECONDS = 50.0
_BOT = "import time\ndef main(id, config):\n    print('up', flush=True)\n    while True:\n        time.sleep(60)\n"
_QUERY = """
from the0 import query

@query.handler("/n")
def n(req):
    return {"n": 1}

query.run()
"""
_ANSWER = {"status": "ok", "data": {"n": 1}}


@dataclass(frozen=True)
class Figures:
    """The results, in milliseconds.

    Attributes:
        first: the first query, which starts the query process.
        bare_p50, bare_p95: of the SDK's server on this machine.
        once: the median of queries of the stopped bot, each in a container of its own.
        load: the machine's load in the last minute.
    """

    queries: int
    first: float
    p50: float
    p95: float
    bare_p50: float
    bare_p95: float
    once: float
    load: float


async def measure(folder: Path, engine: Engine, queries: int, once: int = 5) -> Figures:
    """Ask a bot that often, one query after the other."""
    bare = await _bare(folder / "bare", queries)
    async with deployment(folder, engine) as made:
        await made.start(workers=1)
        made.platform.upload("bot.zip", zipped({"main.py": _BOT, "query.py": _QUERY, **sdk_files()}))
        payload = made.platform.payload("b", {"enabled": True}, key="bot.zip")
        payload["custom"]["config"]["entrypoints"]["query"] = "query.py"
        await made.platform.publish("the0.bot.created", payload)
        await eventually(lambda: made.running_with("b", "up"))
        url = f"http://127.0.0.1:{made.processes['master'].http_port}/query"
        request = {"bot_id": "b", "query_path": "/n", "timeout_sec": 30}
        async with aiohttp.ClientSession() as session:
            [first] = await _timed(session, "POST", url, 1, request)
            found = await _timed(session, "POST", url, queries, request)
            payload["config"]["enabled"] = False
            await made.platform.publish("the0.bot.updated", payload)
            await eventually(lambda: made.in_state("b", "disabled"))
            alone = await _timed(session, "POST", url, once, request)
    return Figures(
        queries,
        first,
        statistics.median(found),
        percentile(found, 95),
        statistics.median(bare),
        percentile(bare, 95),
        statistics.median(alone),
        os.getloadavg()[0],
    )


async def _bare(folder: Path, queries: int) -> list[float]:
    await asyncio.to_thread(_write, folder)
    port = free_port()
    environment = {"BOT_TYPE": "realtime", "THE0_QUERY_PORT": str(port), "PYTHONPATH": str(folder / "vendor")}
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(folder / "query.py"), env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/n"
            await eventually(lambda: _timed(session, "GET", url, 1))
            return await _timed(session, "GET", url, queries)
    finally:
        server.kill()
        await server.wait()


def _write(folder: Path) -> None:
    for name, text in {"query.py": _QUERY, **sdk_files()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


async def _timed(session: aiohttp.ClientSession, method: str, url: str, count: int, body: Any = None) -> list[float]:
    """Return how long each request took, in milliseconds."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        async with session.request(method, url, json=body) as answer:
            assert await answer.json() == _ANSWER
        found.append((time.perf_counter() - begun) * 1000)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=500, help="how many one after the other (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    figures = asyncio.run(with_engine(lambda folder, engine: measure(folder, engine, arguments.queries)))
    if arguments.output == "json":
        print(json.dumps(asdict(figures)))
    else:
        print(f"query of a running bot, p50             {figures.p50:8.1f} ms")
        print(f"p95 (target {TARGET_MILLISECONDS:g} ms)                      {figures.p95:8.1f} ms")
        print(f"the SDK's server alone, p50 and p95     {figures.bare_p50:8.1f} ms {figures.bare_p95:8.1f} ms")
        print(f"first query, which starts the process   {figures.first:8.1f} ms")
        print(f"in a container of its own, p50          {figures.once:8.1f} ms")
        print(f"load of the machine                     {figures.load:8.1f}")
    return 0 if figures.p95 <= TARGET_MILLISECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
