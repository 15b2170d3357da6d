"""The least of a Docker engine that a worker needs to come up with: it says who it is, and has no containers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


@asynccontextmanager
async def idle_engine(socket: Path) -> AsyncIterator[str]:
    """Where it listens, as DOCKER_HOST takes it."""
    app = web.Application()
    app.add_routes(
        [web.get("/_ping", _ping), web.get("/{version}/info", _info), web.route("*", "/{rest:.*}", _nothing)]
    )
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield f"unix://{socket}"
    finally:
        await runner.cleanup()


async def _ping(request: web.Request) -> web.Response:
    return web.Response(text="OK", headers={"Api-Version": "1.47"})


async def _info(request: web.Request) -> web.Response:
    return web.json_response({"ID": "idle", "Name": "idle", "Runtimes": {"runc": {}}})


async def _nothing(request: web.Request) -> web.Response:
    if request.path.endswith("/containers/json"):
        return web.json_response([])
    return web.json_response({"message": "there is nothing here"}, status=404)
