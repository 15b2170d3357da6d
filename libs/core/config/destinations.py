"""Network destinations in settings: an address or a network, with or without a port, and a proxy."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = range(1, 65536)


@dataclass(frozen=True)
class Destination:
    """One address or network; *port* None means every port and protocol, otherwise TCP and UDP at that port."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.network}" if self.port is None else f"{self.network}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on *host*."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def destinations(text: str) -> tuple[Destination, ...]:
    """Return the destinations in *text*, separated by commas: ``10.1.2.3:8443, 10.8.0.0/16, [fd00::5]:443``.

    Raises:
        ValueError: names the part that is none.
    """
    return tuple(_one(part.strip()) for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy: its URL, and what must be open to reach it."""

    url: str
    destination: Destination


def proxy(text: str) -> Proxy:
    """Return the proxy at a URL such as ``http://10.1.2.3:3128`` or ``https://[fd00::5]:3129``.

    Raises:
        ValueError: it is no URL of an address with a port, or has more than that.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        # Not shown, since it has a password.
        raise ValueError("the URL has a user or a password, which every bot could read; let the proxy know its clients")
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} must be http://ADDRESS:PORT or https://ADDRESS:PORT")
    if not port:
        raise ValueError(f"{text!r} has no port from 1 to 65535")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} has no address; set the proxy's address instead of its name") from None
    shown = f"[{address}]" if address.version == 6 else str(address)
    return Proxy(f"{parts.scheme}://{shown}:{port}", Destination(ipaddress.ip_network(address), port))


def _one(part: str) -> Destination:
    address, port = _split(part)
    try:
        return Destination(ipaddress.ip_network(address), port)
    except ValueError as error:
        raise ValueError(f"{part!r} is no address or network: {error}") from None


def _split(part: str) -> tuple[str, int | None]:
    if part.startswith("["):
        address, bracket, rest = part[1:].partition("]")
        if bracket and not rest:
            return address, None
        separator, port = rest[:1], rest[1:]
    elif part.count(":") == 1:
        address, separator, port = part.partition(":")
    else:
        return part, None
    if separator != ":" or not port.isascii() or not port.isdigit() or int(port) not in _PORTS:
        raise ValueError(f"{part!r} has no port from 1 to 65535 behind its colon")
    return address, int(port)
