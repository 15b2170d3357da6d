"""A process's own certificate and the authority of its peers, from PEM files."""

import os
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from libs.core.transport.watched_files import FileRejected, WatchedFiles

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Certificates:
    """PEM texts: the authorities of peers, the own certificate (with its intermediate ones), and its private key."""

    authorities: bytes
    chain: bytes
    key: bytes = field(repr=False)


def certificate_files(
    authorities: tuple[str, Path], chain: tuple[str, Path], key: tuple[str, Path]
) -> WatchedFiles[Certificates]:
    """Return the certificates in these files, each with the setting that names it.

    Raises:
        FileRejected: one of them is missing or invalid, or the key belongs to another certificate.
    """

    def parse(contents: Sequence[bytes]) -> Certificates:
        found = Certificates(*contents)
        check_authorities(authorities[0], found.authorities)
        check_pair(f"{chain[0]} and {key[0]}", found.chain, found.key)
        return found

    return WatchedFiles((authorities, chain, key), parse)


def check_authorities(setting: str, pem: bytes) -> None:
    """Check that *pem* has certificates.

    Raises:
        FileRejected: it has none, or an invalid one.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FileRejected(setting, f"it has no valid PEM certificates ({_reason(error)})") from None


def check_pair(setting: str, chain: bytes, key: bytes) -> None:
    """Check that *chain* begins with the certificate of the private *key*.

    Raises:
        FileRejected: one is invalid, the key is encrypted, or they do not belong together.
    """

    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), chain, key)
    except (ssl.SSLError, ValueError) as error:
        reason = f"they are no PEM certificate with its unencrypted private key ({_reason(error)})"
        raise FileRejected(setting, reason) from None


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Have *context* show the certificate *chain*.

    Raises:
        SSLError, ValueError: they are invalid.
    """

    def password() -> str:
        raise ValueError("the key is encrypted")

    with in_memory(chain) as chain_path, in_memory(key) as key_path:
        context.load_cert_chain(chain_path, key_path, password)


def pem_certificates(pem: bytes) -> list[bytes]:
    """Return each certificate in *pem*, in DER."""
    return [ssl.PEM_cert_to_DER_cert(found.decode("ascii", "replace")) for found in _PEM.findall(pem)]


@contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file with *content* that only this process has; the ssl module reads only files."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or str(error) or type(error).__name__
