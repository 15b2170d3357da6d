"""Listen for HTTP on the configured address."""

import errno

from aiohttp import web

from libs.core.observability.log import get_logger

log = get_logger(__name__)

_CLOSE_SECONDS = 2.0


async def listen(app: web.Application, host: str, port: int, *, port_was_chosen: bool, setting: str) -> web.AppRunner:
    """Serve *app*, and return what serves it; the caller cleans it up.

    Args:
        port_was_chosen: whether the port is configured; if a default one is taken, a free port is used instead.
        setting: the name of the port, for a message.

    Raises:
        OSError: the address is not available.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port_was_chosen:
                raise
            log.warning("port is taken, using a free one", port=port, remedy=f"set {setting} to choose")
            await web.TCPSite(runner, host, 0).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
