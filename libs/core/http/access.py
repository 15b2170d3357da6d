"""Access to the HTTP server of a process: open, by a token, or through an authenticating proxy."""

import base64
import binascii
import hmac

from aiohttp import web

from libs.core.config.process_settings import HttpSettings

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/grpcz", "/metrics"})
"""For the kubelet, load balancers and Prometheus. They show no ids and no output of bots."""

CHALLENGE = 'Basic realm="the0 runtime", charset="UTF-8"'
"""Has a browser ask for a password, which is the token, with any user name."""

_BEARER, _BASIC = "bearer", "basic"


class Access:
    """The access rules of one HTTP server."""

    def __init__(self, settings: HttpSettings) -> None:
        token = settings.token
        self._tokens = [token.get_secret_value()] if token is not None else []
        self._user_header = settings.user_header
        self.is_open = token is None and settings.user_header is None
        """Whether nothing is required."""

    def accept(self, token: str) -> None:
        """Accept *token* as well."""
        self._tokens.append(token)

    def who(self, request: web.Request) -> str:
        """Return who sends an admitted *request*: the proxy's user, else the name given with the token, else `token`.

        Without HTTP_TOKEN and HTTP_USER_HEADER only the address is known.
        """
        if self._user_header is not None and (user := request.headers.get(self._user_header, "").strip()):
            return user
        authorization = request.headers.get("Authorization", "")
        if self._tokens and _token(authorization):
            return f"token:{user}" if (user := _user(authorization)) else "token"
        return f"anonymous@{request.remote or 'unknown'}"

    def admits(self, request: web.Request) -> bool:
        """Whether *request* may see more than the open paths."""
        if self.is_open or request.path in OPEN_PATHS:
            return True
        if self._user_header is not None and request.headers.get(self._user_header, "").strip():
            return True
        given = _token(request.headers.get("Authorization", ""))
        # All tokens are compared, so that the response time reveals nothing.
        matches = [hmac.compare_digest(given, token.encode()) for token in self._tokens]
        return any(matches)


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
