"""The HTTP server of every process: health, readiness, metrics, and routes that others add."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from libs.core.api.errors import error_answer
from libs.core.api.headers import secure
from libs.core.api.paths import DESCRIPTION, PREFIX
from libs.core.config.process_settings import HttpSettings
from libs.core.errors import UserError
from libs.core.http.access import CHALLENGE, CLOSED_CHALLENGE, FORGED, Access
from libs.core.http.health import Readiness
from libs.core.http.listening import listen
from libs.core.http.reader import WHO
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import record, registry

log = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_UNAUTHORIZED = "this needs HTTP_TOKEN: as a bearer token, or as the password of any user"
_NO_USER = "this needs a user that the authenticating proxy names"
_CLOSED = (
    "the status page and the API of this process are closed: set HTTP_TOKEN, or HTTP_USER_HEADER behind an "
    "authenticating proxy, and restart it; only with HTTP_HOST=127.0.0.1 they are open to this machine without either"
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpAddressUnusable(UserError):
    """The server cannot listen on the configured address."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen for HTTP on {host}:{port}: {reason}; set HTTP_PORT (0: any free port)")


class HttpApp:
    """Serves ``/healthz``, ``/readyz``, ``/metrics``, and the routes that are added before its start."""

    def __init__(
        self, settings: HttpSettings, readiness: Readiness, *, metrics_registry: CollectorRegistry = registry
    ) -> None:
        self._settings = settings
        self._readiness = readiness
        self._registry = metrics_registry
        self._access = Access(settings)
        self._app = web.Application(middlewares=[_measured, self._admitted])
        self._app.on_response_prepare.append(secure)
        self._app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port on which it listens; known after the start."""

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Add routes (``/api/v1/...``, the status page); not possible after the start."""
        self._app.add_routes(routes)

    def accept(self, token: str) -> None:
        """Accept *token* of another process of the runtime beside HTTP_TOKEN."""
        self._access.accept(token)

    async def start(self) -> None:
        """Listen. A second call changes nothing.

        Raises:
            HttpAddressUnusable: the address is not available. If no port was configured and the default is taken, a
                free port is used instead.
        """
        if self._runner is not None:
            return
        host, port, port_was_chosen = self._settings.host, self._settings.port, self._settings.port_was_chosen
        try:
            runner = await listen(self._app, host, port, port_was_chosen=port_was_chosen, setting="HTTP_PORT")
        except OSError as error:
            raise HttpAddressUnusable(host, port, error.strerror or str(error)) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        log.info("http server is listening", host=host, port=self.port)
        if self._access.is_closed:
            log.info(
                "status page and API are closed; health checks and metrics are open",
                host=host,
                port=self.port,
                remedy="set HTTP_TOKEN, or HTTP_HOST=127.0.0.1",
            )

    async def serve(self) -> None:
        """Listen, if not yet started, until cancelled; then close."""
        await self.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop listening and end open requests. Closing twice is harmless."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._access.is_forged(request):
            raise web.HTTPForbidden(text=FORGED)
        if self._access.admits(request):
            request[WHO] = self._access.who(request)
            return await handler(request)
        if self._access.has_password:
            raise web.HTTPUnauthorized(text=_UNAUTHORIZED, headers={"WWW-Authenticate": CHALLENGE})
        text = _CLOSED if self._access.is_closed else _NO_USER
        raise web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": CLOSED_CHALLENGE})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.json_response(self._readiness.snapshot(), status=200 if self._readiness.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


@web.middleware
async def _measured(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Measure each answer by its route; log internal errors without showing them to the client."""
    begun = time.perf_counter()
    outcome, is_stream = "error", False
    try:
        response = await handler(request)
        outcome, is_stream = _outcome(response.status), not isinstance(response, web.Response)
    except web.HTTPException as error:
        outcome = _outcome(error.status)
        if not request.path.startswith(f"{PREFIX}/"):
            raise
        return _refusal(request, error)
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except Exception:
        log.exception("http request failed", method=request.method, path=request.path)
        return web.json_response({"error": "internal error; see the log of this process"}, status=500)
    else:
        return response
    finally:
        # The duration of a stream depends on the client.
        if not is_stream:
            record("http", _operation(request), outcome, time.perf_counter() - begun)


def _refusal(request: web.Request, error: web.HTTPException) -> web.Response:
    """Answer aiohttp's own errors as JSON: an unknown path, a method other than GET."""
    if isinstance(error, web.HTTPNotFound):
        return error_answer(404, f"unknown path; {DESCRIPTION} lists the paths")
    if isinstance(error, web.HTTPUnauthorized | web.HTTPForbidden):
        answer = error_answer(error.status, error.text or _UNAUTHORIZED)
    else:
        answer = error_answer(error.status, f"{error.reason}: {request.method[:20]} is not allowed")
    for name in ("Allow", "WWW-Authenticate"):
        if name in error.headers:
            answer.headers[name] = error.headers[name]
    return answer


def _outcome(status: int) -> str:
    """Count 503 as an answer: a standby master, for instance, sends it all the time."""
    if status == web.HTTPServiceUnavailable.status_code:
        return "refused"
    return "ok" if status < 500 else "error"


def _operation(request: web.Request) -> str:
    """Return the route instead of the path, and no made-up method: both would be unbounded."""
    resource = request.match_info.route.resource
    method = request.method if request.method in _METHODS else "other"
    return f"{method} {resource.canonical}" if resource is not None else "unmatched"
