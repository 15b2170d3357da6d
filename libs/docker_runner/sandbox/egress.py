"""A bot's own allow-list of hosts: ``config.egress``. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from libs.docker_runner.errors import EgressRejected
from libs.docker_runner.executable import Network

MAX_ENTRIES = 32
_NAME_CHARACTERS = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORTS = range(1, 65536)
_FORM = 'write HOST:PORT, such as "api.binance.com:443"'


@dataclass(frozen=True, order=True)
class AllowedHost:
    """A host and a port (TCP and UDP) that a bot may reach.

    Attributes:
        host: a name in lower case, or an address in its canonical form.
        is_address: whether it needs no resolution.
    """

    host: str
    port: int
    is_address: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def egress_for(
    config: Mapping[str, object], network: Network = Network.BRIDGE, *, guard: bool = True
) -> tuple[AllowedHost, ...] | None:
    """Return the hosts in ``config.egress``; None for a bot that is not narrowed. An empty list allows no host.

    Raises:
        EgressRejected: it is malformed, or cannot be enforced on this *network*, or without the *guard*.
    """
    entries = config.get("egress")
    if entries is None:
        return None
    if not isinstance(entries, list | tuple):
        raise EgressRejected(entries, 'must be a list of hosts such as ["api.binance.com:443"]')
    if len(entries) > MAX_ENTRIES:
        raise EgressRejected(f"{len(entries)} entries", f"must have at most {MAX_ENTRIES} entries")
    hosts = tuple(sorted({_one(entry) for entry in entries}))
    if network is Network.HOST:
        raise EgressRejected(entries, "cannot be enforced with BOT_NETWORK=host; remove it, or set BOT_NETWORK=bridge")
    if network is Network.CLUSTER:
        raise EgressRejected(
            entries, "cannot be enforced with ENGINE=kubernetes, whose policies have no names; remove it, or use docker"
        )
    if network is Network.BRIDGE and not guard:
        raise EgressRejected(
            entries, "cannot be enforced with BOT_METADATA_GUARD=false; remove it, or set that to true"
        )
    return hosts


def written(hosts: tuple[AllowedHost, ...]) -> str:
    """Return *hosts* as one line, for a label."""
    return ",".join(map(str, hosts))


def read(line: str) -> tuple[AllowedHost, ...]:
    """Return the hosts of a label. Parts that are malformed are left out, which only narrows."""
    hosts = []
    for part in line.split(",") if line else ():
        try:
            hosts.append(_one(part))
        except EgressRejected:
            continue
    return tuple(hosts)


def _one(entry: object) -> AllowedHost:
    if not isinstance(entry, str):
        raise EgressRejected(entry, f"is not text; {_FORM}")
    host, port = _split(entry)
    try:
        return AllowedHost(str(ipaddress.ip_address(host)), port, is_address=True)
    except ValueError:
        pass
    if "/" in host:
        raise EgressRejected(entry, "is a network; list each address or name")
    if "*" in host:
        raise EgressRejected(entry, "has a wildcard; list each host by its full name")
    name = host.lower().removesuffix(".")
    try:
        name = name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        raise EgressRejected(entry, f"has no valid host name; {_FORM}") from None
    labels = name.split(".")
    # A last part of digits would be read as an IPv4 address by some resolvers (127.1, 0x7f.1).
    is_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]) is not None
    if len(name) > _NAME_CHARACTERS or is_number or not all(_LABEL.fullmatch(label) for label in labels):
        raise EgressRejected(entry, f"has no valid host name; {_FORM}")
    return AllowedHost(name, port)


def _split(entry: str) -> tuple[str, int]:
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not bracket or ":" not in host:
            raise EgressRejected(entry, 'has no IPv6 address between its brackets; write "[2001:db8::1]:443"')
    else:
        if "://" in entry:
            raise EgressRejected(entry, f"is a URL; {_FORM}")
        if entry.count(":") > 1:
            raise EgressRejected(entry, 'has several colons; write an IPv6 address as "[2001:db8::1]:443"')
        host, separator, port = entry.partition(":")
    if not separator or not port:
        raise EgressRejected(entry, f"has no port; {_FORM}")
    if separator != ":" or not (port.isascii() and port.isdigit() and len(port) <= 5) or int(port) not in _PORTS:
        raise EgressRejected(entry, f"has no port from 1 to 65535 behind its colon; {_FORM}")
    return host, int(port)
