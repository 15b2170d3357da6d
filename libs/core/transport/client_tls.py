"""TLS of connections to servers of others (MongoDB, NATS, S3) by files that may be replaced at any time."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from libs.core.transport.certificates import check_authorities, check_pair, load_chain
from libs.core.transport.watched_files import WatchedFiles


class TlsFileSettings(Protocol):
    """The paths in the settings of one server."""

    @property
    def tls_ca_file(self) -> str | None:
        """The authorities of the server; None: those of the system."""

    @property
    def tls_certificate_file(self) -> str | None:
        """The own certificate; None without one."""

    @property
    def tls_key_file(self) -> str | None:
        """Its key."""


class ClientTls:
    """The authorities of a server, and the certificate that it is shown.

    Args:
        files: PEM files by setting: authorities, certificate, key; None where there is none.

    Raises:
        FileRejected: a file is missing or invalid.
    """

    def __init__(self, files: Sequence[tuple[str, str | None]]) -> None:
        (self._ca, ca), (self._certificate, certificate), (self._key, key) = files
        self._has_ca = ca is not None
        self.authorities_path = Path(ca) if ca is not None else None
        """The file of `authorities`."""
        present = [(setting, Path(path)) for setting, path in files if path is not None]
        self._has_certificate = certificate is not None and key is not None
        self._watched = WatchedFiles(present, self._parse)

    @classmethod
    def of(cls, prefix: str, settings: TlsFileSettings) -> Self | None:
        """Return TLS by the settings that begin with *prefix*; None when no file is set. Errors as the constructor."""
        paths = (settings.tls_ca_file, settings.tls_certificate_file, settings.tls_key_file)
        if not any(paths):
            return None
        names = (f"{prefix}_TLS_{part}_FILE" for part in ("CA", "CERT", "KEY"))
        return cls(list(zip(names, paths, strict=True)))

    @property
    def version(self) -> int:
        """A number that increases with each replacement of the files."""
        return self._watched.versioned()[0]

    @property
    def authorities(self) -> bytes | None:
        """The authorities of the server, in PEM; None: those of the system."""
        return self._watched.value[0] if self._has_ca else None

    def context(self) -> ssl.SSLContext:
        """Return a context of the current files."""
        authorities = self.authorities
        context = ssl.create_default_context(cadata=authorities.decode("ascii") if authorities else None)
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have *context* use the current files for new connections. Authorities are added to those that it has."""
        if (authorities := self.authorities) is not None:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        if self._has_certificate:
            *_, chain, key = self._watched.value
            load_chain(context, chain, key)

    def _parse(self, contents: Sequence[bytes]) -> Sequence[bytes]:
        if self._has_ca:
            check_authorities(self._ca, contents[0])
        if self._has_certificate:
            *_, chain, key = contents
            check_pair(f"{self._certificate} and {self._key}", chain, key)
        return contents
