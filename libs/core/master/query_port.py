"""The query port of a master: `POST /query` of the platform."""

from http import HTTPStatus

from aiohttp import web

from libs.core.config.process_settings import HttpSettings
from libs.core.config.query_settings import QuerySettings
from libs.core.errors import UserError
from libs.core.http.access import CLOSED_CHALLENGE, FORGED, Access
from libs.core.http.app import Handler
from libs.core.http.listening import listen
from libs.core.http.reader import WHO
from libs.core.master.leader_proxy import LeaderProxy
from libs.core.master.query_router import QueryRouter
from libs.core.observability.log import get_logger
from libs.core.queries.messages import QueryAnswer, QueryFault, failed
from libs.core.queries.request import BODY_BYTES, RequestRefused, read_query

log = get_logger(__name__)

PATH = "/query"
FAULT = "X-The0-Query-Fault"
"""Header of an answer: its fault, or `none`. An answer without it is not one to a query."""

_UNAUTHORIZED = "this needs HTTP_TOKEN as a bearer token"
_CLOSED = "queries are closed: set HTTP_TOKEN on this master, or QUERY_HOST=127.0.0.1, and restart it"


class QueryAddressUnusable(UserError):
    """The query port cannot be used."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen for queries on {host}:{port}: {reason}; set QUERY_PORT (0: any free port)")


class QueryHandler:
    """Answers `POST /query`: with the leader's answer where another master leads.

    It answers that the master is starting until it is opened.
    """

    def __init__(self) -> None:
        self._router: QueryRouter | None = None
        self._proxy: LeaderProxy | None = None
        self._timeout_seconds = 0.0

    def open(self, router: QueryRouter, proxy: LeaderProxy, timeout_seconds: float) -> None:
        """Answer from now on; *timeout_seconds* is the time limit of a query."""
        self._router, self._proxy, self._timeout_seconds = router, proxy, timeout_seconds

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        if self._router is None or self._proxy is None:
            return _response(failed(QueryFault.UNAVAILABLE, "this process answers no queries, or is starting"))
        try:
            body = await _body(request)
            query = read_query(body, self._timeout_seconds)
        except RequestRefused as refused:
            return _response(failed(refused.fault, str(refused)))
        if self._router.leads:
            return _response(await self._router.answer(query))
        forwarded = await self._proxy.posted(request, PATH, body, query.timeout_seconds, answered=FAULT)
        return forwarded or _response(failed(QueryFault.UNAVAILABLE, "no master leads now; try again later"))


class QueryPort:
    """The HTTP server of the query port, with the access rules of the HTTP API."""

    def __init__(self, settings: QuerySettings, http: HttpSettings, handler: QueryHandler) -> None:
        self._host = settings.host or http.host
        self._port, self._port_was_chosen = settings.port, settings.port_was_chosen
        self._access = Access(http.model_copy(update={"host": self._host}))
        self._app = web.Application(middlewares=[self._admitted])
        self._app.add_routes([web.post(PATH, handler.handle), web.get("/healthz", _healthz)])
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port on which it listens; known after the start."""

    async def start(self) -> None:
        """Listen.

        Raises:
            QueryAddressUnusable: the address is not available. If no port was configured and the default is taken, a
                free port is used instead.
        """
        host, port, port_was_chosen = self._host, self._port, self._port_was_chosen
        try:
            runner = await listen(self._app, host, port, port_was_chosen=port_was_chosen, setting="QUERY_PORT")
        except OSError as error:
            raise QueryAddressUnusable(host, port, error.strerror or str(error)) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        remedy = "set HTTP_TOKEN, or QUERY_HOST=127.0.0.1" if self._access.is_closed else None
        log.info("listening for queries", host=host, port=self.port, closed=self._access.is_closed, remedy=remedy)

    async def close(self) -> None:
        """Stop listening. Closing twice is harmless."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._access.is_forged(request):
            refusal = failed(QueryFault.INVALID, FORGED).body
            return web.Response(status=HTTPStatus.FORBIDDEN, body=refusal, content_type="application/json")
        if not self._access.admits(request):
            text = _UNAUTHORIZED if self._access.has_password else _CLOSED
            return web.Response(
                status=HTTPStatus.UNAUTHORIZED,
                body=failed(QueryFault.INVALID, text).body,
                content_type="application/json",
                headers={"WWW-Authenticate": CLOSED_CHALLENGE},
            )
        request[WHO] = self._access.who(request)
        try:
            return await handler(request)
        except web.HTTPException as error:
            text = f"{error.reason}: queries are asked by POST {PATH}"
            body = failed(QueryFault.INVALID, text).body
            return web.Response(status=error.status, body=body, content_type="application/json")
        except Exception:
            log.exception("query failed")
            return _response(failed(QueryFault.INTERNAL, "internal error; see the log of this process"))


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _body(request: web.Request) -> bytes:
    """Return the body of the request. Raises RequestRefused when it is too large."""
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > BODY_BYTES:
            raise RequestRefused(QueryFault.QUESTION_TOO_LARGE, f"the request is larger than {BODY_BYTES // 1024} KiB")
    return bytes(body)


def _response(answer: QueryAnswer) -> web.Response:
    headers = {FAULT: answer.fault or "none"}
    return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)
