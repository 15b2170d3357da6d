"""Access to the HTTP server of a process: by a token, through an authenticating proxy, or open on loopback alone."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from libs.core.config.process_settings import HTTP_TOKEN, HttpSettings
from libs.core.http.reader import reader_in
from libs.core.transport.watched_files import FileRejected, WatchedFiles

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/grpcz", "/metrics"})
"""For the kubelet, load balancers and Prometheus. They show no ids and no output of bots."""
CHALLENGE = 'Basic realm="the0 runtime", charset="UTF-8"'
"""Has a browser ask for a password, which is the token, with any user name."""
CLOSED_CHALLENGE = 'Bearer realm="the0 runtime"'
"""Has no browser ask: without HTTP_TOKEN there is no password."""

FORGED = "refused: sent by a page of another site, or to a name other than localhost, which needs HTTP_TOKEN"
"""The answer to a forged request."""

_BEARER, _BASIC = "bearer", "basic"
_OTHER_SITES = ("cross-site", "same-site")


class Access:
    """The access rules of one HTTP server.

    Raises:
        FileRejected: HTTP_TOKEN_FILE cannot be read.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._tokens = _tokens_of(settings)
        self._tokens_of_processes: list[str] = []
        self._user_header = settings.user_header
        self._proxies = settings.trusted_proxies
        is_configured = settings.token is not None or settings.user_header is not None
        self.is_open = not is_configured and settings.is_private
        """Whether nothing is required: only this machine reaches the server."""
        self.is_closed = not is_configured and not settings.is_private
        """Whether all users are refused: nothing is configured that could admit one."""

    @property
    def has_password(self) -> bool:
        """Whether a user may present HTTP_TOKEN."""
        return bool(self._tokens())

    def accept(self, token: str) -> None:
        """Accept *token* of another process of the runtime as well, which names the user on whose behalf it asks."""
        self._tokens_of_processes.append(token)

    def who(self, request: web.Request) -> str:
        """Return who sends an admitted *request*: the proxy's user, else the name given with the token, else `token`.

        Another process of the runtime names its user itself. Without a proof only the address is known.
        """
        if user := self._user_of_proxy(request):
            return user
        authorization = request.headers.get("Authorization", "")
        given = _token(authorization)
        if _is_among(given, self._tokens_of_processes):
            return reader_in(request) or "token"
        if self._tokens() and given:
            return f"token:{user}" if (user := _user(authorization)) else "token"
        return f"anonymous@{request.remote or 'unknown'}"

    def admits(self, request: web.Request) -> bool:
        """Whether *request* may see more than the open paths."""
        if self.is_open or request.path in OPEN_PATHS:
            return True
        if self._user_of_proxy(request):
            return True
        return _is_among(
            _token(request.headers.get("Authorization", "")), [*self._tokens(), *self._tokens_of_processes]
        )

    def is_forged(self, request: web.Request) -> bool:
        """Whether a page of another site may have had a browser send *request*.

        A browser says so of a request that changes something. And where nothing is required, a site could have its own
        name lead to this machine, and read the answers as those of its own server.
        """
        if request.path in OPEN_PATHS:
            return False
        if request.method not in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Site") in _OTHER_SITES:
            return True
        return self.is_open and not _is_of_this_machine(request.headers.get("Host", "localhost"))

    def _user_of_proxy(self, request: web.Request) -> str:
        """Return the user that a trusted proxy names; empty without one, and when two are named."""
        if self._user_header is None or not self._is_of_proxy(request):
            return ""
        names = request.headers.getall(self._user_header, [])
        # A proxy that adds its header to that of the client has proven neither.
        return names[0].strip() if len(names) == 1 else ""

    def _is_of_proxy(self, request: web.Request) -> bool:
        try:
            address = ipaddress.ip_address(request.remote or "")
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


def _tokens_of(settings: HttpSettings) -> Callable[[], Sequence[str]]:
    """Return what returns the current HTTP_TOKEN; nothing without one."""
    if settings.token is None:
        return tuple
    if settings.token_file is None:
        fixed = (settings.token.get_secret_value(),)
        return lambda: fixed
    watched = WatchedFiles([("HTTP_TOKEN_FILE", Path(settings.token_file))], _token_in)
    return lambda: (watched.value,)


def _token_in(contents: Sequence[bytes]) -> str:
    token = contents[0].decode(errors="replace").strip()
    if not HTTP_TOKEN.fullmatch(token):
        raise FileRejected("HTTP_TOKEN_FILE", "the token is shorter than 16 characters, or has spaces")
    return token


def _is_among(given: bytes, tokens: list[str]) -> bool:
    # All tokens are compared, so that the response time reveals nothing.
    matches = [hmac.compare_digest(given, token.encode()) for token in tokens]
    return any(matches)


def _is_of_this_machine(host: str) -> bool:
    """Whether a Host header has an address, or a name that only this machine can have."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _user(authorization: str) -> str:
    """Return the user name beside the token; empty for a bearer token."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() != _BASIC:
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).partition(b":")[0].decode("utf-8", "replace")
    except binascii.Error:
        return ""


def _token(authorization: str) -> bytes:
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == _BEARER:
        return value.strip().encode("utf-8", "replace")
    if scheme.lower() == _BASIC:
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
