"""Closes the link-local addresses (169.254.0.0/16, where clouds serve their credentials) to one bridge of this host.

It speaks netlink itself: bot images have neither iptables nor nft, and the host's own may not be reachable. Two walls,
of which one is enough: an nftables rule before any other, which also catches what is redirected or served by the host
itself; and a routing rule, for kernels without nftables. Needs CAP_NET_ADMIN in the network namespace of the engine.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any

PREFIX = socket.inet_aton("169.254.0.0")
MASK = socket.inet_aton("255.255.0.0")

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST, ACK, CREATE, EXCLUSIVE, APPEND = 0x1, 0x4, 0x400, 0x200, 0x800
MESSAGE_ERROR = 2
HEADER_BYTES = 16

NEW_RULE_ROUTING = 32
BLACKHOLE = 6
RULE_PRIORITY = 10

BATCH_BEGIN, BATCH_END = 16, 17
NFTABLES = 10 << 8
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = NFTABLES | 0, NFTABLES | 2, NFTABLES | 3, NFTABLES | 6
HOOK_PREROUTING = 0
BEFORE_CONNECTION_TRACKING = -310
NESTED = 0x8000


def main() -> int:
    bridge = sys.argv[1]
    failures = []
    for name, wall in (("nftables", filter_packets), ("routing", refuse_route)):
        try:
            wall(bridge)
        except OSError as error:
            failures.append(f"{name}: {error.strerror or error}")
    if len(failures) == 2:
        print("; ".join(failures), file=sys.stderr)  # noqa: T201 - read by whoever started this container
        return 1
    return 0


def refuse_route(bridge: str) -> None:
    """``ip rule add iif BRIDGE to 169.254.0.0/16 blackhole``; it stays when the bridge is made anew."""
    header = struct.pack("=BBBBBBBBI", socket.AF_INET, 16, 0, 0, 0, 0, 0, BLACKHOLE, 0)
    attributes = [(1, PREFIX), (3, text(bridge)), (6, struct.pack("=I", RULE_PRIORITY))]
    with netlink(NETLINK_ROUTE) as connection:
        body = header + pack(attributes)
        try:
            send(connection, [message(NEW_RULE_ROUTING, REQUEST | ACK | CREATE | EXCLUSIVE, 1, body)], acks=1)
        except FileExistsError:
            return


def filter_packets(bridge: str) -> None:
    """A table of our own, replaced as a whole: packets from BRIDGE to 169.254.0.0/16 are dropped on arrival."""
    table = text("the0-" + bridge)
    expressions: list[tuple[str, list[Any]]] = [
        ("meta", [(1, be32(1)), (2, be32(6))]),
        ("cmp", [(1, be32(1)), (2, be32(0)), (3, [(1, bridge.encode().ljust(16, b"\0"))])]),
        ("payload", [(1, be32(1)), (2, be32(1)), (3, be32(16)), (4, be32(4))]),
        ("bitwise", [(1, be32(1)), (2, be32(1)), (3, be32(4)), (4, [(1, MASK)]), (5, [(1, bytes(4))])]),
        ("cmp", [(1, be32(1)), (2, be32(0)), (3, [(1, PREFIX)])]),
        ("immediate", [(1, be32(0)), (2, [(2, [(1, be32(0))])])]),
    ]
    rule = [(1, [(1, text(name)), (2, attributes)]) for name, attributes in expressions]
    hook = [(1, be32(HOOK_PREROUTING)), (2, struct.pack(">i", BEFORE_CONNECTION_TRACKING))]
    chain = text("prerouting")
    steps: list[tuple[int, int, list[Any]]] = [
        # Made first, so that the removal finds one.
        (NEW_TABLE, CREATE, [(1, table)]),
        (DELETE_TABLE, 0, [(1, table)]),
        (NEW_TABLE, CREATE, [(1, table)]),
        (NEW_CHAIN, CREATE, [(1, table), (3, chain), (4, hook), (5, be32(1)), (7, text("filter"))]),
        (NEW_RULE, CREATE | APPEND, [(1, table), (2, chain), (4, rule)]),
    ]
    batch = struct.pack(">BBH", socket.AF_UNSPEC, 0, 10)
    messages = [message(BATCH_BEGIN, REQUEST, 0, batch)]
    for number, (kind, flags, attributes) in enumerate(steps, start=1):
        family = struct.pack(">BBH", socket.AF_INET, 0, 0)
        messages.append(message(kind, REQUEST | ACK | flags, number, family + pack(attributes)))
    messages.append(message(BATCH_END, REQUEST, len(steps) + 1, batch))
    with netlink(NETLINK_NETFILTER) as connection:
        send(connection, messages, acks=len(steps))


# --- netlink


def netlink(protocol: int) -> socket.socket:
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    connection.settimeout(5)
    connection.bind((0, 0))
    return connection


def send(connection: socket.socket, messages: Iterable[bytes], acks: int) -> None:
    """Send all in one go and wait for every acknowledgement; the first refusal is raised as OSError."""
    connection.send(b"".join(messages))
    while acks:
        data = connection.recv(65536)
        while len(data) >= HEADER_BYTES:
            length, kind = struct.unpack_from("=IH", data)
            if kind == MESSAGE_ERROR:
                code = -struct.unpack_from("=i", data, HEADER_BYTES)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                acks -= 1
            data = data[(length + 3) & ~3 :]


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", HEADER_BYTES + len(body), kind, flags, sequence, 0) + body


def pack(attributes: Iterable[tuple[int, Any]]) -> bytes:
    """Attributes as netlink wants them: a list as value is nested."""
    packed = b""
    for kind, value in attributes:
        nested = isinstance(value, list)
        data = pack(value) if nested else value
        packed += struct.pack("=HH", 4 + len(data), kind | (NESTED if nested else 0)) + data + bytes(-len(data) % 4)
    return packed


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        sys.exit(f"{errno.errorcode.get(failure.errno or 0, '')} {failure}")
