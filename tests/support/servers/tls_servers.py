"""The embedded servers with TLS. They require a certificate of each client, apart from the S3 server."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

from tests.support.certificates import Files
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.s3 import S3Server


class _WithTls:
    """What the three have in common: the server's own files."""

    files: Files

    @classmethod
    @contextlib.asynccontextmanager
    async def start_with(cls, directory: Path, files: Files) -> AsyncIterator[Self]:
        """A server that answers, during the block."""
        server = cls(directory)  # type: ignore[call-arg]
        server.files = files
        try:
            await server.launch()  # type: ignore[attr-defined]
            yield server
        finally:
            await server.stop()  # type: ignore[attr-defined]


class TlsMongoServer(_WithTls, MongoServer):
    """A mongod that requires TLS."""

    @property
    def uri(self) -> str:
        """For the checks of the base class, with the server's own certificate as the client's."""
        return f"{self.bare_uri}&tls=true&tlsCAFile={self.files.authority}&tlsCertificateKeyFile={self._pair}"

    @property
    def bare_uri(self) -> str:
        """The connection string without TLS."""
        return f"mongodb://{self.address}/?directConnection=true"

    @property
    def _pair(self) -> Path:
        return self.directory / "server.pem"

    async def _prepare(self) -> None:
        await super()._prepare()
        self._pair.write_bytes(self.files.certificate.read_bytes() + self.files.key.read_bytes())

    def _command(self) -> Sequence[str | Path]:
        tls = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", self._pair, "--tlsCAFile", self.files.authority)
        return [*super()._command(), *tls]


class TlsNatsServer(_WithTls, NatsServer):
    """A nats-server that requires TLS."""

    def _command(self) -> Sequence[str | Path]:
        tls = ("--tls", "--tlscert", self.files.certificate, "--tlskey", self.files.key)
        return [*super()._command(), *tls, "--tlsverify", "--tlscacert", self.files.authority]


class TlsS3Server(_WithTls, S3Server):
    """An S3 gateway with HTTPS."""

    async def _prepare(self) -> None:
        await super()._prepare()
        certificates = self.directory / ".minio" / "certs"
        certificates.mkdir(parents=True, exist_ok=True)
        (certificates / "public.crt").write_bytes(self.files.certificate.read_bytes())
        (certificates / "private.key").write_bytes(self.files.key.read_bytes())

    def _trust(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=str(self.files.authority))
