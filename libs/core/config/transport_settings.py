"""Settings of how masters and workers prove to each other who they are."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from libs.core.config.destinations import is_loopback
from libs.core.config.settings_loader import Group, Named

TOKEN = re.compile(r"[\x21-\x2b\x2d-\x7e]{16,512}")
"""Printable characters except spaces and commas."""
_TOKENS_ALLOWED = "16 characters or more, without spaces; several with commas between"


def _tokens(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        for token in value.get_secret_value().split(","):
            if not TOKEN.fullmatch(token.strip()):
                raise ValueError("one of them is too short, or has spaces")
    return value


class TransportSettings(Group):
    """The security of the connection between masters and workers."""

    mode: Annotated[
        Literal["off", "allow", "require"],
        Named("TLS_MODE"),
        Field(
            description="mutual TLS between masters and workers; off: none; allow: masters accept both, workers use it "
            "if the master has it; require: nothing else"
        ),
    ] = "off"
    authorities_file: Annotated[
        str | None,
        Named("TLS_CA_FILE", allowed="a PEM file"),
        Field(description="certificates of the authorities that sign masters and workers of this deployment alone"),
    ] = None
    certificate_file: Annotated[
        str | None,
        Named("TLS_CERT_FILE", allowed="a PEM file"),
        Field(
            description="certificate of this process, for the DNS name `master.SERVICE.the0` or `worker.SERVICE.the0`; "
            "replaced files are used without a restart"
        ),
    ] = None
    key_file: Annotated[
        str | None,
        Named("TLS_KEY_FILE", allowed="a PEM file"),
        Field(description="private key of that certificate, not encrypted"),
    ] = None
    token: Annotated[
        SecretStr | None,
        Named("GRPC_TOKEN", allowed=_TOKENS_ALLOWED),
        Field(
            description="token that masters and workers share: masters accept each of several, workers send the first; "
            "unset: masters accept workers without one"
        ),
        AfterValidator(_tokens),
    ] = None
    token_file: Annotated[
        str | None,
        Named("GRPC_TOKEN_FILE", allowed="a file"),
        Field(description="file with those tokens, one a line; a replaced file is used without a restart"),
    ] = None
    pod_token_file: Annotated[
        str | None,
        Named("POD_TOKEN_FILE", allowed="a file"),
        Field(
            description="token of this worker's pod for the audience `the0`, of a projected volume, which proves that "
            "the worker's id is its pod's name; the kubelet renews the file"
        ),
    ] = None
    pod_tokens: Annotated[
        Literal["off", "allow", "require"],
        Named("POD_TOKENS"),
        Field(
            description="whether masters have the Kubernetes API review the tokens of worker pods; off: no; allow: "
            "those that workers present; require: a worker without one is refused"
        ),
    ] = "off"
    worker_service_account: Annotated[
        str | None,
        Named("WORKER_SERVICE_ACCOUNT", allowed="a Kubernetes name"),
        Field(
            pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
            description="service account that those tokens must be of, in NAMESPACE; unset: any",
        ),
    ] = None
    host: Annotated[
        str,
        Named("GRPC_HOST", allowed="an address of this machine"),
        Field(pattern=r"^[^\s/]+$", description="address on which masters listen for workers; `::`: all addresses"),
    ] = "::"
    max_workers: Annotated[
        int,
        Named("GRPC_MAX_WORKERS"),
        Field(ge=1, le=1_000_000, description="number of workers that one master accepts at a time"),
    ] = 20_000
    max_workers_per_address: Annotated[
        int,
        Named("GRPC_MAX_WORKERS_PER_ADDRESS"),
        Field(ge=1, le=1_000_000, description="number of those from one IP address"),
    ] = 10_000

    @property
    def is_private(self) -> bool:
        """Whether a master listens only for this machine."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _files_are_complete(self) -> Self:
        files = {
            "TLS_CA_FILE": self.authorities_file,
            "TLS_CERT_FILE": self.certificate_file,
            "TLS_KEY_FILE": self.key_file,
        }
        missing = [name for name, file in files.items() if file is None]
        if self.mode != "off" and missing:
            raise ValueError(f"TLS_MODE={self.mode} needs {', '.join(missing)}; set it, or TLS_MODE=off")
        if self.token is not None and self.token_file is not None:
            raise ValueError("GRPC_TOKEN and GRPC_TOKEN_FILE are both set; leave one out")
        return self
