"""When the certificates of a process end, as a metric, so that an alert comes early enough."""

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge

from libs.core.config.settings_loader import Group, named_of
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat
from libs.core.transport.certificates import pem_certificates

log = get_logger(__name__)

NOT_AFTER = Gauge(
    "runtime_certificate_not_after_seconds", "Unix time at which a certificate of this process ends.", ["setting"]
)
_READ_SECONDS = 60.0
_AUTHORITIES, _CERTIFICATE = "_CA_FILE", "_CERT_FILE"

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class CertificateInvalid(ValueError):
    """The bytes are no X.509 certificate."""


def certificate_files_of(settings: object) -> dict[str, Path]:
    """Return the files with certificates that a dataclass of groups of settings names, by setting."""
    found: dict[str, Path] = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        group = getattr(settings, field.name)
        if not isinstance(group, Group):
            continue
        for name, described in type(group).model_fields.items():
            variable, value = named_of(described).variable, getattr(group, name)
            if isinstance(variable, str) and variable.endswith((_AUTHORITIES, _CERTIFICATE)) and value:
                found[variable] = Path(value)
    return found


async def watch_expiry(files: Mapping[str, Path]) -> None:
    """Export when the certificates in *files* end, read every minute. Does not return."""

    async def one_round() -> None:
        for setting, path in files.items():
            try:
                NOT_AFTER.labels(setting).set(ends_at(setting, path.read_bytes()))
            except (OSError, CertificateInvalid) as error:
                log.warning("the end of a certificate cannot be read", setting=setting, reason=str(error))

    await repeat("read when certificates end", one_round, _READ_SECONDS)


def ends_at(setting: str, pem: bytes) -> float:
    """Return the Unix time at which the certificates in *pem* can no longer be used.

    Of an own certificate with its intermediate ones it is the first end. Of authorities it is the last one: while they
    are replaced the file has the former one too.

    Raises:
        CertificateInvalid: there is no valid certificate in it.
    """
    ends = [not_after(der) for der in pem_certificates(pem)]
    if not ends:
        raise CertificateInvalid("it has no certificate")
    return max(ends) if setting.endswith(_AUTHORITIES) else min(ends)


def not_after(der: bytes) -> float:
    """Return the Unix time at which a certificate ends (RFC 5280, section 4.1).

    Raises:
        CertificateInvalid: *der* is no certificate.
    """
    try:
        certificate = _content(der, _SEQUENCE)
        fields = list(_elements(_content(certificate, _SEQUENCE)))
        # Version (absent in the first version), serial number, algorithm, issuer, validity.
        validity = fields[4 if fields[0][0] == _VERSION else 3]
        _, (tag, time) = _elements(validity[1])
        return _unix_time(tag, time.decode("ascii"))
    except (IndexError, ValueError) as error:
        raise CertificateInvalid(f"it is no X.509 certificate ({error})") from None


def _content(der: bytes, tag: int) -> bytes:
    """Return the content of the first element, which must have *tag*."""
    found, content = next(_elements(der), (0, b""))
    if found != tag:
        raise ValueError(f"tag {found:#x}, not {tag:#x}")
    return content


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that follow each other in *der*."""
    position = 0
    while position < len(der):
        tag, length = der[position], der[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[position : position + size], "big")
            position += size
        if position + length > len(der):
            raise ValueError("it is cut off")
        yield tag, der[position : position + length]
        position += length


def _unix_time(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        # Two digits of the year: 1950 to 2049.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"tag {tag:#x} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
