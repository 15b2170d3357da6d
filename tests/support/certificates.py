"""An authority and the certificates that it signs, made by openssl."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """PEM files: the authority, a certificate and its key."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a process that uses them between masters and workers."""
        return {
            "TLS_CA_FILE": str(self.authority),
            "TLS_CERT_FILE": str(self.certificate),
            "TLS_KEY_FILE": str(self.key),
        }

    def replace_by(self, other: "Files") -> None:
        """Take over the content of *other*, each file as a whole."""
        for own, new in (
            (self.authority, other.authority),
            (self.key, other.key),
            (self.certificate, other.certificate),
        ):
            written = own.with_suffix(".new")
            written.write_bytes(new.read_bytes())
            written.replace(own)


class Authority:
    """A new authority; its files are in *folder*."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._name = name
        self.certificate = folder / f"{name}.crt"
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "2"]
        self._openssl("-subj", f"/CN={name}", *usage, "-keyout", str(self._key), "-out", str(self.certificate))

    @property
    def _key(self) -> Path:
        return self._folder / f"{self._name}.key"

    def issue(
        self, file: str, *names: str, subject: str = "/CN=the0", days: int = 2, addresses: Sequence[str] = ()
    ) -> Files:
        """Write a certificate for these DNS names and IP addresses, for servers and clients, to *file*.crt and .key."""
        alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
        extensions = ["-addext", "basicConstraints=critical,CA:FALSE"]
        if alternatives:
            extensions += ["-addext", f"subjectAltName={','.join(alternatives)}"]
        key, certificate = self._folder / f"{file}.key", self._folder / f"{file}.crt"
        self._openssl(
            *("-subj", subject, *extensions, "-CA", str(self.certificate), "-CAkey", str(self._key)),
            *("-days", str(days), "-keyout", str(key), "-out", str(certificate)),
        )
        own = self._folder / f"{file}.ca"
        own.write_bytes(self.certificate.read_bytes())
        return Files(own, certificate, key)

    @staticmethod
    def _openssl(*arguments: str) -> None:
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(["openssl", "req", "-x509", *new_key, *arguments], check=True, capture_output=True, timeout=60)
