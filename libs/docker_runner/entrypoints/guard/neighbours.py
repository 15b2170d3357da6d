"""The kernel's tables of neighbours: link-layer addresses by IP address, one for all network namespaces of a host.

By default they have room for 1024 entries. A bot adds one with each packet to another address of its bridge's network,
which has 65,534; each stays for three seconds. A full table leaves every container that starts then, and the host,
without their gateway.
"""

import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from libs.docker_runner.entrypoints.guard import nftables as nft
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import nftables as nft  # pants: no-infer-dep

NEW_TABLE, GET_TABLE, SET_TABLE = 64, 66, 67
NAME, COLLECT_ABOVE, MOST = 1, 3, 4
# Eight bots that fill all they can, at about a kilobyte an entry with its packets, and never more.
ROOM = 1 << 19
# Beyond it the kernel looks for old entries before it adds one, at most every five seconds.
COLLECT = 1 << 18


def ensure_room() -> str:
    """Raise the limits of the tables to :data:`ROOM`; return why that is not possible, or "". May be repeated.

    Only the host's own network namespace may change them: an engine in a pod has another one.
    """
    small = [(name, room) for name, room in tables() if room < ROOM]
    for name, room in small:
        wanted = [(NAME, nft.text(name)), (COLLECT_ABOVE, nft.native32(COLLECT)), (MOST, nft.native32(ROOM))]
        try:
            with nft.netlink(nft.ROUTE) as connection:
                changed = nft.message(SET_TABLE, nft.REQUEST | nft.ACK, 1, bytes(4) + nft.pack(wanted))
                nft.send(connection, [changed], acks=1)
        except OSError as error:
            return f"{name} has room for {room}: {error.strerror or error}"
    return ""


def tables() -> "Iterator[tuple[str, int]]":
    """Yield the name of each table of IPv4 and IPv6, and its limit."""
    with nft.netlink(nft.ROUTE) as connection:
        connection.send(nft.message(GET_TABLE, nft.REQUEST | nft.DUMP, 1, bytes(4)))
        while True:
            data = connection.recv(65536)
            while len(data) >= nft.HEADER_BYTES:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (nft.DONE, nft.ERROR):
                    return
                found = dict(nft.unpack(data[nft.HEADER_BYTES + 4 : length]))
                # Further messages have the parameters of one interface.
                if kind == NEW_TABLE and MOST in found:
                    name = found[NAME].rstrip(b"\0").decode()
                    if name in ("arp_cache", "ndisc_cache"):
                        yield name, struct.unpack("=I", found[MOST])[0]
                data = data[(length + 3) & ~3 :]
