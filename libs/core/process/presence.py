"""Publish this process's HTTP address in MongoDB for as long as it lives."""

import ipaddress
import socket

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat
from libs.core.store.processes import KEPT_SECONDS, KnownProcess, ProcessStore

log = get_logger(__name__)

_RETRY_SECONDS = 5.0
# Reserved for documentation. Nothing is sent: connecting a UDP socket only selects the route and the own address.
_SOMEWHERE = (("192.0.2.1", 9, socket.AF_INET), ("2001:db8::1", 9, socket.AF_INET6))


def reachable_at(listens_on: str) -> list[str]:
    """Return the addresses under which a server listening on *listens_on* may be reached, the best first."""
    try:
        everywhere = ipaddress.ip_address(listens_on.strip("[]")).is_unspecified
    except ValueError:
        everywhere = False
    if not everywhere:
        return [listens_on.strip("[]")]
    found = [address for host, port, family in _SOMEWHERE if (address := _own_address(host, port, family))]
    return [*found, socket.gethostname()]


async def be_present(store: ProcessStore, process: KnownProcess) -> None:
    """Keep *process* registered in *store*, forever."""

    async def one_round() -> float:
        try:
            await store.ensure_indexes()
            await store.seen(process)
        except RuntimeFault as error:
            log.info("the address of this process cannot be stored now", reason=str(error))
            return _RETRY_SECONDS
        return KEPT_SECONDS / 5

    await repeat("be present", one_round, KEPT_SECONDS / 5, longest_retry_seconds=_RETRY_SECONDS)


def _own_address(host: str, port: int, family: int) -> str:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError:  # no route by that protocol
        return ""
