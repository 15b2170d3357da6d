"""Settings of the servers that a process uses: MongoDB, NATS and S3."""

import re
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from libs.core.config.settings_loader import Group, Named, Seconds

_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"
_BUCKET_ALLOWED = "a bucket name: 3 to 63 letters, digits, dots and dashes"


G = TypeVar("G", bound=Group)


def _mongo_uri(uri: SecretStr) -> SecretStr:
    if not re.match(r"mongodb(\+srv)?://[^/\s]", uri.get_secret_value()):
        raise ValueError("it does not begin with mongodb:// and a host")
    return uri


def _nats_url(url: str | None) -> str | None:
    for server in (url or "nats://x").split(","):
        if not re.match(r"^((nats|tls|ws|wss)://)?[^\s/:@]+(:[^\s/@]*)?(@[^\s/:@]+(:\d+)?)?/?$", server.strip()):
            raise ValueError("one of its servers is no address")
    return url


def _names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _complete(group: G, prefix: str) -> G:
    if (getattr(group, "tls_certificate_file") is None) != (getattr(group, "tls_key_file") is None):  # noqa: B009
        raise ValueError(f"{prefix}_TLS_CERT_FILE and {prefix}_TLS_KEY_FILE belong together; set both or none")
    return group


class MongoSettings(Group):
    """MongoDB."""

    uri: Annotated[
        SecretStr,
        Named(
            "MONGO_URI",
            flag="--mongo-uri",
            file="MONGO_URI_FILE",
            allowed="a MongoDB connection string (mongodb://host:27017)",
        ),
        Field(description="connection string of MongoDB"),
        AfterValidator(_mongo_uri),
    ] = SecretStr("mongodb://localhost:27017")
    uri_file: Annotated[
        str | None,
        Named("MONGO_URI_FILE", allowed="a file"),
        Field(description="file with that connection string; a replaced user or password is used without a restart"),
    ] = None
    timeout_seconds: Annotated[
        Seconds,
        Named("MONGO_TIMEOUT_SECONDS", unit="seconds"),
        Field(ge=0.1, le=60, description="how long an operation waits for a usable MongoDB server"),
    ] = 2.0
    tls_ca_file: Annotated[
        str | None,
        Named("MONGO_TLS_CA_FILE", allowed="a PEM file"),
        Field(description="certificates of the authorities of MongoDB; turns TLS on; unset: those of the system"),
    ] = None
    tls_certificate_file: Annotated[
        str | None,
        Named("MONGO_TLS_CERT_FILE", allowed="a PEM file"),
        Field(description="certificate that is shown to MongoDB; a replaced file is used without a restart"),
    ] = None
    tls_key_file: Annotated[
        str | None,
        Named("MONGO_TLS_KEY_FILE", allowed="a PEM file"),
        Field(description="private key of that certificate, not encrypted"),
    ] = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        return _complete(self, "MONGO")


class NatsSettings(Group):
    """NATS."""

    url: Annotated[
        str | None,
        Named(
            "NATS_URL",
            file="NATS_URL_FILE",
            file_may_be_missing=True,
            allowed="one or more addresses with commas between (nats://host:4222)",
        ),
        Field(
            repr=False, description="address of NATS; without it no events are ingested and MongoDB is scanned instead"
        ),
        AfterValidator(_nats_url),
    ] = None
    url_file: Annotated[
        str | None,
        Named("NATS_URL_FILE", allowed="a file"),
        Field(
            description="file with that address; a replaced one is used for the next connection; if its folder lacks "
            "it, NATS is not used"
        ),
    ] = None
    credentials_file: Annotated[
        str | None,
        Named("NATS_CREDS_FILE", allowed="a file of `nsc generate creds`"),
        Field(
            description="JWT of a user of NATS with its key, instead of a password in NATS_URL; a replaced file is "
            "used for the next connection"
        ),
    ] = None
    max_retries: Annotated[
        int,
        Named("MAX_RETRIES"),
        Field(ge=0, le=1000, description="number of retries of a failed operation"),
    ] = 3
    tls_ca_file: Annotated[
        str | None,
        Named("NATS_TLS_CA_FILE", allowed="a PEM file"),
        Field(description="certificates of the authorities of NATS; turns TLS on; unset: those of the system"),
    ] = None
    tls_certificate_file: Annotated[
        str | None,
        Named("NATS_TLS_CERT_FILE", allowed="a PEM file"),
        Field(description="certificate that is shown to NATS; a replaced file is used without a restart"),
    ] = None
    tls_key_file: Annotated[
        str | None,
        Named("NATS_TLS_KEY_FILE", allowed="a PEM file"),
        Field(description="private key of that certificate, not encrypted"),
    ] = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        return _complete(self, "NATS")


class StorageSettings(Group):
    """The S3 server and its buckets."""

    endpoint: Annotated[
        str,
        Named("MINIO_ENDPOINT", allowed="host or host:port without http:// (MINIO_USE_SSL chooses)"),
        Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s/:]+)(:\d+)?$", description="address of the S3 server"),
    ] = "localhost:9000"
    access_key: Annotated[
        SecretStr,
        Named(
            "MINIO_ACCESS_KEY_ID",
            aliases=("MINIO_ACCESS_KEY",),
            file="MINIO_ACCESS_KEY_ID_FILE",
            allowed="the access key of the S3 server",
        ),
        Field(min_length=1, description="access key of the S3 server"),
    ]
    secret_key: Annotated[
        SecretStr,
        Named(
            "MINIO_SECRET_ACCESS_KEY",
            aliases=("MINIO_SECRET_KEY",),
            file="MINIO_SECRET_ACCESS_KEY_FILE",
            allowed="the secret key of the S3 server",
        ),
        Field(min_length=1, description="secret key of the S3 server"),
    ]
    access_key_file: Annotated[
        str | None,
        Named("MINIO_ACCESS_KEY_ID_FILE", allowed="a file"),
        Field(description="file with that access key; a replaced one is used without a restart"),
    ] = None
    secret_key_file: Annotated[
        str | None,
        Named("MINIO_SECRET_ACCESS_KEY_FILE", allowed="a file"),
        Field(description="file with that secret key; a replaced one is used without a restart"),
    ] = None
    secure: Annotated[
        bool,
        Named("MINIO_USE_SSL", aliases=("MINIO_SSL",)),
        Field(description="whether to use TLS for the S3 server"),
    ] = False
    tls_ca_file: Annotated[
        str | None,
        Named("MINIO_TLS_CA_FILE", allowed="a PEM file"),
        Field(description="certificates of the authorities of the S3 server; unset: those of the system"),
    ] = None
    tls_certificate_file: Annotated[
        str | None,
        Named("MINIO_TLS_CERT_FILE", allowed="a PEM file"),
        Field(description="certificate that is shown to the S3 server; a replaced file is used without a restart"),
    ] = None
    tls_key_file: Annotated[
        str | None,
        Named("MINIO_TLS_KEY_FILE", allowed="a PEM file"),
        Field(description="private key of that certificate, not encrypted"),
    ] = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        return _complete(self, "MINIO")

    code_bucket: Annotated[
        str,
        Named("MINIO_BOTS_BUCKET", aliases=("MINIO_CODE_BUCKET",), allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the bots' code"),
    ] = "bots"
    code_prefix: Annotated[
        str,
        Named("MINIO_BOTS_PREFIX", allowed="the beginning of an object's key (bots/)"),
        Field(
            max_length=512, description="prefix that custom.filePath must have; code elsewhere in the bucket is refused"
        ),
    ] = ""
    named_buckets: Annotated[
        tuple[str, ...] | None,
        Named("GCS_BUCKETS", allowed="names of buckets with commas between", default_text="any"),
        Field(description="buckets that custom.gcsPath may name; never those of logs, results and state"),
        BeforeValidator(_names),
    ] = None
    data_bucket: Annotated[
        str | None,
        Named("MINIO_DATA_BUCKET", allowed=_BUCKET_ALLOWED, default_text="that of the bots' code"),
        Field(pattern=_BUCKET, description="bucket of shared data sets"),
    ] = None
    data_prefix: Annotated[
        str,
        Named("MINIO_DATA_PREFIX", allowed="the beginning of an object's key (data/)"),
        Field(max_length=512, description="prefix of the keys of shared data sets"),
    ] = ".the0/data/"
    logs_bucket: Annotated[
        str,
        Named("MINIO_LOGS_BUCKET", allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the bots' logs"),
    ] = "logs"
    results_bucket: Annotated[
        str,
        Named("MINIO_RESULTS_BUCKET", aliases=("MINIO_BACKTESTS_BUCKET",), allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the backtests' results"),
    ] = "results"
    state_bucket: Annotated[
        str,
        Named("MINIO_STATE_BUCKET", allowed=_BUCKET_ALLOWED),
        Field(pattern=_BUCKET, description="bucket of the bots' persistent state"),
    ] = "bot-state"
