"""How one process of a service proves its role, and checks the role of its peer, over gRPC.

The role is a DNS name in the certificate: ``master.bot-runner.the0`` or ``worker.bot-runner.the0``. A worker accepts
only the master of its own service, and a master only workers of its own service, regardless of their addresses. In mode
``allow`` streams without TLS are accepted as well, so that both sides can change one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc

from libs.core.config.transport_settings import TransportSettings
from libs.core.observability.log import get_logger
from libs.core.transport.certificates import Certificates, certificate_files
from libs.core.transport.pod_tokens import HEADER as POD_TOKEN
from libs.core.transport.pod_tokens import pod_token_file
from libs.core.transport.tokens import SharedTokens, parse_tokens, token_file
from libs.core.transport.watched_files import WatchedFiles

log = get_logger(__name__)

Options = list[tuple[str, Any]]
_AUTHORIZATION = "authorization"
_SCHEME = "Bearer "


class StreamRefused(Exception):
    """The peer of a stream did not prove that it is a worker of this service."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def role_name(role: Literal["master", "worker"], service: str) -> str:
    """Return the DNS name that the certificate of a role has."""
    return f"{role}.{service}.the0"


@dataclass(frozen=True)
class TransportSecurity:
    """What a process of *service* proves and requires; the default proves nothing, as older versions do.

    Attributes:
        certificates: its own; present unless *mode* is ``off``.
        pod_token: returns the current token of this worker's pod; None without one.
    """

    service: str = ""
    mode: Literal["off", "allow", "require"] = "off"
    certificates: WatchedFiles[Certificates] | None = None
    tokens: SharedTokens = field(default_factory=SharedTokens)
    pod_token: Callable[[], str] | None = None

    @classmethod
    def of(cls, settings: TransportSettings, service: str) -> "TransportSecurity":
        """Read what *settings* name.

        Raises:
            FileRejected: a file is missing or invalid.
        """
        tokens = SharedTokens()
        if settings.token is not None:
            fixed = parse_tokens("GRPC_TOKEN", settings.token.get_secret_value())
            tokens = SharedTokens(lambda: fixed)
        elif settings.token_file is not None:
            tokens = token_file("GRPC_TOKEN_FILE", Path(settings.token_file))
        certificates = None
        if settings.mode != "off":
            certificates = certificate_files(
                ("TLS_CA_FILE", Path(settings.authorities_file or "")),
                ("TLS_CERT_FILE", Path(settings.certificate_file or "")),
                ("TLS_KEY_FILE", Path(settings.key_file or "")),
            )
        pod_token = None
        if settings.pod_token_file is not None:
            pod_token = pod_token_file("POD_TOKEN_FILE", Path(settings.pod_token_file))
        return cls(service, settings.mode, certificates, tokens, pod_token)

    @property
    def proves_workers(self) -> bool:
        """Whether a master requires a proof of every worker."""
        return self.mode == "require" or self.tokens.required

    # --- a master's side

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that require a certificate of each client, and use replaced files at once."""

        def current() -> grpc.ServerCertificateConfiguration:
            found = self._certificates.value
            return grpc.ssl_server_certificate_configuration([(found.key, found.chain)], found.authorities)

        return grpc.dynamic_ssl_server_credentials(current(), current, require_client_authentication=True)

    def check(self, context: "grpc.aio.ServicerContext[Any, Any]") -> str:
        """Check that a worker of this service opened the stream, and return the token that it presented.

        Raises:
            StreamRefused: it did not prove that.
        """
        shown = context.auth_context()
        if b"ssl" in shown.get("transport_security_type", ()):
            wanted = role_name("worker", self.service)
            names = [name.decode(errors="replace") for name in shown.get("peer_dns", ())]
            if wanted not in names:
                details = f"this master accepts certificates of {wanted}; this one is of {', '.join(names)[:500]!r}"
                raise StreamRefused(grpc.StatusCode.PERMISSION_DENIED, details)
        elif self.mode == "require":
            details = "this master requires TLS; set TLS_MODE and the files of a certificate"
            raise StreamRefused(grpc.StatusCode.UNAUTHENTICATED, details)
        token = _token(context)
        if not self.tokens.accepts(token):
            what = "presented another token" if token else "presented no token"
            details = f"this worker {what}; set GRPC_TOKEN or GRPC_TOKEN_FILE as on the masters"
            raise StreamRefused(grpc.StatusCode.UNAUTHENTICATED, details)
        return token

    # --- a worker's side

    @property
    def encryptions(self) -> tuple[bool, ...]:
        """Whether to try TLS, in the order of the attempts."""
        return {"off": (False,), "allow": (True, False), "require": (True,)}[self.mode]

    @property
    def version(self) -> int:
        """A number that changes with the certificates, so that the stream has to be opened again."""
        return self.certificates.versioned()[0] if self.certificates is not None else 0

    def channel(self, target: str, options: Options, *, encrypted: bool) -> grpc.aio.Channel:
        """Return a new channel to a master; with TLS only to one of the same service."""
        if not encrypted:
            return grpc.aio.insecure_channel(target, options=options)
        found = self._certificates.value
        credentials = grpc.ssl_channel_credentials(found.authorities, found.key, found.chain)
        named = ("grpc.ssl_target_name_override", role_name("master", self.service))
        return grpc.aio.secure_channel(target, credentials, options=[*options, named])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send with a call."""
        token = self.tokens.own
        shared = ((_AUTHORIZATION, f"{_SCHEME}{token}"),) if token is not None else ()
        return (*shared, (POD_TOKEN, self.pod_token())) if self.pod_token is not None else shared

    @property
    def _certificates(self) -> WatchedFiles[Certificates]:
        if self.certificates is None:
            raise RuntimeError("TLS is off")
        return self.certificates


def _token(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _AUTHORIZATION and isinstance(value, str) and value.startswith(_SCHEME):
            return value.removeprefix(_SCHEME)
    return ""
