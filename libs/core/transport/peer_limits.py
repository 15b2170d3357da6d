"""The number of streams or connections that a server accepts, in all and from one address."""

import ipaddress
import re
from collections import Counter
from urllib.parse import unquote

_IPV6_NETWORK_BITS = 64
"""One machine may use every address of such a network."""


class PeerLimits:
    """Counts what is open.

    Args:
        total, per_address: the largest numbers.
    """

    def __init__(self, total: int = 20_000, per_address: int = 10_000) -> None:
        self._total = total
        self._per_address = per_address
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many are open."""
        return self._open.total()

    def admit(self, address: str) -> str | None:
        """Count one more from *address* and return None; or return the reason why it must be refused.

        An empty address, that of a local process, counts in all only.
        """
        if self.open >= self._total:
            return f"this master has {self._total} workers, which is its limit; raise GRPC_MAX_WORKERS"
        if address and self._open[address] >= self._per_address:
            return (
                f"this master has {self._per_address} workers of {address}, which is the limit for one address; "
                "raise GRPC_MAX_WORKERS_PER_ADDRESS"
            )
        self._open[address] += 1
        return None

    def release(self, address: str) -> None:
        """Count one less from *address*."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


def address_of(peer: str) -> str:
    """Return the address in gRPC's name of a peer; of IPv6 its network. Empty for a local process."""
    found = re.fullmatch(r"ipv[46]:(.+):\d+", unquote(peer))
    return network_of(found[1].strip("[]")) if found else ""


def network_of(host: str) -> str:
    """Return an IP address as it counts: of IPv6 its network."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
