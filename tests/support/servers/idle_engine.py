"""A minimal Docker engine with which a worker starts: it has an identity and no containers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


@asynccontextmanager
async def idle_engine(socket: Path) -> AsyncIterator[str]:
    """Its address, in the form of DOCKER_HOST."""
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
