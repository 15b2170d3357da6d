"""Puts up the bots' network walls in the kernel of the engine's host; runs in a helper container, now and then.

It speaks netlink itself: bot images have neither iptables nor nft, and the host's own may not be reachable. Needs
CAP_NET_ADMIN in the network namespace of the engine. Repeating it replaces what is there, in one step for the packets,
and says ``missing`` when some of it was not there.

    network_guard.py by-address PREFIX   walls around each network card whose address begins with PREFIX (as 06b0)
    network_guard.py by-bridge BRIDGE    the same for everything on that bridge, link-local addresses at least

169.254.0.0/16 is where clouds serve their credentials. Name service is let through: some clouds have theirs there.
"""

import os
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Attributes = list[tuple[int, Any]]

LINK_LOCAL = socket.inet_aton("169.254.0.0")
LINK_LOCAL_MASK = socket.inet_aton("255.255.0.0")
NAME_SERVICE = struct.pack(">H", 53)

ROUTE, NETFILTER = 0, 12
REQUEST, ACK, DUMP, EXCLUSIVE, CREATE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x800
ERROR, DONE = 2, 3
HEADER_BYTES = 16
NESTED = 0x8000

NEW_ROUTING_RULE = 32
BLACKHOLE, TO_TABLE, MAIN_TABLE = 6, 1, 254
RULE_PRIORITY = 10

BATCH_BEGIN, BATCH_END = 16, 17
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, GET_RULE = 0xA00, 0xA02, 0xA03, 0xA06, 0xA07
INET_FAMILY, BRIDGE_FAMILY = 2, 7
PREROUTING, FORWARD = 0, 2
# Before connection tracking and before all that redirects packets.
FIRST = -310
DROP, ACCEPT = 0, 1
LINK, NETWORK, TRANSPORT = 0, 1, 2
IN_NAME, OUT_NAME = 6, 7
IPV4 = struct.pack(">H", 0x0800)


def main() -> int:
    mode, subject = sys.argv[1:]
    if mode == "by-address":
        by_address(bytes.fromhex(subject))
        return 0
    failures = []
    # One is enough: the first also catches what is redirected or served by the host itself, the second is for kernels
    # without nftables.
    for name, wall in (("nftables", by_bridge), ("routing", by_route)):
        try:
            wall(subject)
        except OSError as error:
            failures.append(f"{name}: {error.strerror or error}")
    if len(failures) == 2:
        print("; ".join(failures), file=sys.stderr)  # noqa: T201 - read by whoever started this container
        return 1
    return 0


def by_address(prefix: bytes) -> None:
    """No frame passes between a walled card and another port of its bridge; no packet of it to link-local addresses."""
    source, target = at(LINK, 6, prefix), at(LINK, 0, prefix)
    chains = {
        ("prerouting", PREROUTING): link_local_rules(source + at(LINK, 12, IPV4)),
        ("forward", FORWARD): [source + verdict(DROP), target + verdict(DROP)],
    }
    replace_table("the0-bots", BRIDGE_FAMILY, chains)


def by_bridge(bridge: str) -> None:
    """Packets that come from the bridge are dropped before anything else looks at them.

    The engine's own rule against what passes between its ports is repeated, since it comes back with the engine only.
    """
    arrived, leaving = interface(IN_NAME, bridge), interface(OUT_NAME, bridge)
    chains = {
        ("prerouting", PREROUTING): link_local_rules(arrived),
        ("forward", FORWARD): [arrived + leaving + verdict(DROP)],
    }
    replace_table("the0-" + bridge, INET_FAMILY, chains)


def by_route(bridge: str) -> None:
    """``ip rule add iif BRIDGE to 169.254.0.0/16 blackhole``; it stays when the bridge is made anew."""
    base: Attributes = [(1, LINK_LOCAL), (3, text(bridge))]
    rules = [(BLACKHOLE, 0, [*base, (6, native32(RULE_PRIORITY + 1))])]
    for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
        ports = struct.pack("=HH", 53, 53)
        allowed = [*base, (6, native32(RULE_PRIORITY)), (22, bytes([protocol])), (24, ports)]
        rules.append((TO_TABLE, MAIN_TABLE, allowed))
    with netlink(ROUTE) as connection:
        for action, table, attributes in rules:
            header = struct.pack("=BBBBBBBBI", socket.AF_INET, 16, 0, 0, table, 0, 0, action, 0)
            try:
                flags = REQUEST | ACK | CREATE | EXCLUSIVE
                send(connection, [message(NEW_ROUTING_RULE, flags, 1, header + pack(attributes))], acks=1)
            except FileExistsError:
                continue


# --- nftables


def link_local_rules(whose: "Attributes") -> "list[Attributes]":
    masked = expression(
        "bitwise",
        [(1, be32(1)), (2, be32(1)), (3, be32(4)), (4, [(1, LINK_LOCAL_MASK)]), (5, [(1, bytes(4))])],
    )
    to_link_local = [*whose, load(NETWORK, 16, 4), masked, equals(LINK_LOCAL)]
    name_service = [
        to_link_local + at(NETWORK, 9, bytes([protocol])) + at(TRANSPORT, 2, NAME_SERVICE) + verdict(ACCEPT)
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [*name_service, to_link_local + verdict(DROP)]


def replace_table(name: str, family: int, chains: "dict[tuple[str, int], list[Attributes]]") -> None:
    """Make the table anew, in one step for the packets."""
    table = (1, text(name))
    if rules_in(name, family) < sum(len(rules) for rules in chains.values()):
        print("missing")  # noqa: T201 - read by whoever started this container
    # Made first, so that the removal finds one.
    steps: list[tuple[int, int, Attributes]] = [
        (NEW_TABLE, CREATE, [table]),
        (DELETE_TABLE, 0, [table]),
        (NEW_TABLE, CREATE, [table]),
    ]
    for (chain, number), rules in chains.items():
        hook = [(1, be32(number)), (2, struct.pack(">i", FIRST))]
        made = [table, (3, text(chain)), (4, hook), (5, be32(ACCEPT)), (7, text("filter"))]
        steps.append((NEW_CHAIN, CREATE, made))
        steps += [(NEW_RULE, CREATE | APPEND, [table, (2, text(chain)), (4, rule)]) for rule in rules]
    batch = struct.pack(">BBH", socket.AF_UNSPEC, 0, 10)
    messages = [message(BATCH_BEGIN, REQUEST, 0, batch)]
    for number, (kind, flags, attributes) in enumerate(steps, start=1):
        body = struct.pack(">BBH", family, 0, 0) + pack(attributes)
        messages.append(message(kind, REQUEST | ACK | flags, number, body))
    messages.append(message(BATCH_END, REQUEST, len(steps) + 1, batch))
    with netlink(NETFILTER) as connection:
        send(connection, messages, acks=len(steps))


def rules_in(name: str, family: int) -> int:
    """How many rules the table has; 0 when there is none."""
    body = struct.pack(">BBH", family, 0, 0) + pack([(1, text(name))])
    found = 0
    with netlink(NETFILTER) as connection:
        connection.send(message(GET_RULE, REQUEST | DUMP, 1, body))
        while True:
            data = connection.recv(65536)
            while len(data) >= HEADER_BYTES:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (DONE, ERROR):
                    return found
                found += kind == NEW_RULE
                data = data[(length + 3) & ~3 :]


def interface(direction: int, name: str) -> "Attributes":
    """The packet comes from, or goes to, the interface of that name."""
    return [expression("meta", [(1, be32(1)), (2, be32(direction))]), equals(name.encode().ljust(16, b"\0"))]


def at(base: int, offset: int, value: bytes) -> "Attributes":
    """The packet has *value* there."""
    return [load(base, offset, len(value)), equals(value)]


def load(base: int, offset: int, length: int) -> "tuple[int, Any]":
    return expression("payload", [(1, be32(1)), (2, be32(base)), (3, be32(offset)), (4, be32(length))])


def equals(value: bytes) -> "tuple[int, Any]":
    return expression("cmp", [(1, be32(1)), (2, be32(0)), (3, [(1, value)])])


def verdict(code: int) -> "Attributes":
    return [expression("immediate", [(1, be32(0)), (2, [(2, [(1, be32(code))])])])]


def expression(name: str, attributes: "Attributes") -> "tuple[int, Any]":
    return (1, [(1, text(name)), (2, attributes)])


# --- netlink


def netlink(protocol: int) -> socket.socket:
    connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    connection.settimeout(5)
    connection.bind((0, 0))
    return connection


def send(connection: socket.socket, messages: "Iterable[bytes]", acks: int) -> None:
    """Send all in one go and wait for every acknowledgement; the first refusal is raised as OSError."""
    connection.send(b"".join(messages))
    while acks:
        data = connection.recv(65536)
        while len(data) >= HEADER_BYTES:
            length, kind = struct.unpack_from("=IH", data)
            if kind == ERROR:
                code = -struct.unpack_from("=i", data, HEADER_BYTES)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                acks -= 1
            data = data[(length + 3) & ~3 :]


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", HEADER_BYTES + len(body), kind, flags, sequence, 0) + body


def pack(attributes: "Attributes") -> bytes:
    """Attributes as netlink wants them; a list as value is nested."""
    packed = b""
    for kind, value in attributes:
        nested = isinstance(value, list)
        data = pack(value) if nested else value
        packed += struct.pack("=HH", 4 + len(data), kind | (NESTED if nested else 0)) + data + bytes(-len(data) % 4)
    return packed


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def native32(value: int) -> bytes:
    return struct.pack("=I", value)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        sys.exit(str(failure))
