"""An S3 server on this machine: the gateway of JuiceFS, whose front end is MinIO's own."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tools.stack import binaries
from tools.stack.process import BackgroundProcess
from tools.stack.server import EmbeddedServer

_FORMAT_SECONDS = 60


class S3Server(EmbeddedServer):
    """An S3 endpoint with its objects in the folder. The keys are for this machine only."""

    name: ClassVar[str] = "s3-gateway"
    access_key: ClassVar[str] = "the0-local"
    secret_key: ClassVar[str] = "the0-local-secret"  # noqa: S105 - it guards a server that only this machine reaches

    @property
    def endpoint(self) -> str:
        """The value for MINIO_ENDPOINT: host and port, without a scheme; plain HTTP."""
        return self.address

    async def _prepare(self) -> None:
        metadata = self.directory / "metadata"
        if metadata.exists():
            return
        # Created beside its final name, so that an interrupted first start is repeated.
        fresh = self.directory / "metadata.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        command: list[str | Path] = [binaries.juicefs(), "--no-agent", "format", "--storage", "file"]
        command += ["--bucket", self._objects, "--trash-days", "0", f"sqlite3://{fresh}/meta.db", "the0"]
        formatting = BackgroundProcess("juicefs format", command, self.log_path)
        formatting.launch()
        try:
            if await formatting.wait(_FORMAT_SECONDS) != 0:
                raise formatting.failure("failed")
        except TimeoutError:
            raise formatting.failure(f"did not end within {_FORMAT_SECONDS} s") from None
        finally:
            await formatting.kill()
        fresh.rename(metadata)

    def _command(self) -> Sequence[str | Path]:
        return [
            *(binaries.juicefs(), "--no-agent", "gateway", "--no-banner", "--multi-buckets", "--keep-etag"),
            *("--no-usage-report", "--backup-meta", "0", "--metrics", "127.0.0.1:0", "--cache-dir", "memory"),
            *("--buffer-size", "64M", "--cache-size", "32M", "--log", self.directory / "juicefs.log"),
            *("--bucket", self._objects, f"sqlite3://{self.directory}/metadata/meta.db", self.address),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            # It stores certificates and settings below HOME, and must not use the user's.
            "HOME": str(self.directory),
        }

    async def _answers(self) -> bool:
        request = f"GET /minio/health/live HTTP/1.1\r\nHost: {self.address}\r\nConnection: close\r\n\r\n"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self._trust())
        except OSError:
            return False
        try:
            writer.write(request.encode())
            return b" 200 " in await asyncio.wait_for(reader.readline(), 5)
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # it ended meanwhile
                await writer.wait_closed()

    def _trust(self) -> ssl.SSLContext | None:
        """The certificate of the server; None: plain HTTP."""
        return None

    @property
    def _objects(self) -> str:
        return f"{self.directory}/objects/"
