"""Install the bots' egress rules in the kernel of the engine's host; runs in a helper container, once a minute.

It speaks netlink itself: bot images have neither iptables nor nft, and the host's own may not be reachable. Needs
CAP_NET_ADMIN in the network namespace of the engine. Repeating it replaces the rules, in one step for the packets, and
prints ``missing`` if some of them were not there.

    network_guard.py by-address PREFIX ALLOWED...   for each network card whose MAC address begins with PREFIX (as 06b0)
    network_guard.py by-bridge BRIDGE ALLOWED...    for everything on that bridge

A bot reaches public addresses only. Denied are the networks in DENIED, every address of the host itself, and mail
servers; allowed are DNS, which some clouds serve at such addresses, and ALLOWED: networks, each with a port behind a
colon or without (10.1.2.3/32:8443).
"""

import ipaddress
import os
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Attributes = list[tuple[int, Any]]
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network
    Destination = tuple[Network, int | None]

DENIED_IPV4 = [
    "0.0.0.0/8",  # this host
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # carrier-grade NAT, and a cloud's metadata service
    "127.0.0.0/8",
    "168.63.129.16/32",  # a cloud's metadata service on a public address
    "169.254.0.0/16",  # link-local, where most clouds serve credentials
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments, and a cloud's metadata service
    "192.168.0.0/16",  # private
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
]
DENIED_IPV6 = [
    "::/96",  # unspecified, loopback
    "::ffff:0:0/96",  # IPv4-mapped
    "64:ff9b:1::/48",  # a local translator to IPv4
    "fc00::/7",  # private, and a cloud's metadata service
    "fe80::/10",  # link-local
    "fec0::/10",  # private, formerly
    "ff00::/8",  # multicast
]
# The public translator to IPv4 (NAT64) would lead to private addresses as well.
DENIED_IPV6 += [
    f"64:ff9b::{network.partition('/')[0]}/{96 + int(network.partition('/')[2])}" for network in DENIED_IPV4
]
NAME_SERVICE = 53
WITH_PORTS = (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
MAIL = (25, 465, 587)
ICMPV6 = 58
NEIGHBOUR_DISCOVERY = (133, 136)

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
INET_FAMILY, BRIDGE_FAMILY = 1, 7
PREROUTING, INPUT, FORWARD = 0, 1, 2
# Before connection tracking and before all that redirects packets.
FIRST = -310
DROP, ACCEPT = 0, 1
LINK, NETWORK, TRANSPORT = 0, 1, 2
IN_NAME, OUT_NAME, PROTOCOL = 6, 7, 16
EQUAL, AT_MOST, AT_LEAST = 0, 3, 5
ETHERNET = {4: struct.pack(">H", 0x0800), 6: struct.pack(">H", 0x86DD)}
TARGET_OFFSET = {4: 16, 6: 24}


def main() -> int:
    mode, subject = sys.argv[1:3]
    allowed = [destination(text) for text in sys.argv[3:]]
    if mode == "by-address":
        by_address(bytes.fromhex(subject), allowed)
        return 0
    failures = []
    # One is enough: the first also catches what is redirected or served by the host itself, the second is for kernels
    # without nftables.
    for name, wall in (("nftables", by_bridge), ("routing", by_route)):
        try:
            wall(subject, allowed)
        except OSError as error:
            failures.append(f"{name}: {error.strerror or error}")
    if len(failures) == 2:
        print("; ".join(failures), file=sys.stderr)  # noqa: T201 - read by whoever started this container
        return 1
    return 0


def by_address(prefix: bytes, allowed: "list[Destination]") -> None:
    """No frame passes between a walled card and another port of its bridge, no packet of it to what is denied.

    What passes the bridge is filtered before the host can redirect it, and once more by where it was redirected to.
    """
    source, target = at(LINK, 6, prefix), at(LINK, 0, prefix)
    frames = {
        ("prerouting", PREROUTING): egress_rules(source, allowed),
        ("forward", FORWARD): [source + verdict(DROP), target + verdict(DROP)],
    }
    packets = {
        ("forward", FORWARD): egress_rules(source, allowed),
        ("input", INPUT): host_rules(source, allowed),
    }
    replace_table("the0-bots", BRIDGE_FAMILY, frames)
    replace_table("the0-bots", INET_FAMILY, packets)


def by_bridge(bridge: str, allowed: "list[Destination]") -> None:
    """The same for what comes from the bridge.

    The engine's own rule against what passes between its ports is repeated, since it comes back with the engine only.
    """
    arrived, leaving = interface(IN_NAME, bridge), interface(OUT_NAME, bridge)
    chains = {
        ("prerouting", PREROUTING): egress_rules(arrived, allowed),
        ("forward", FORWARD): [arrived + leaving + verdict(DROP), *egress_rules(arrived, allowed)],
        ("input", INPUT): host_rules(arrived, allowed),
    }
    replace_table("the0-" + bridge, INET_FAMILY, chains)


def by_route(bridge: str, allowed: "list[Destination]") -> None:
    """``ip rule add iif BRIDGE to NETWORK blackhole``; it stays when the bridge is made anew.

    Addresses of the host itself are not closed this way. The network has no IPv6.
    """
    from_bridge = (3, text(bridge))
    rules = []
    for network, port in [(ipaddress.ip_network("0.0.0.0/0"), NAME_SERVICE), *allowed]:
        if network.version == 4:
            base = [(1, network.network_address.packed), from_bridge, (6, native32(RULE_PRIORITY))]
            for ports in transports(port):
                rules.append((TO_TABLE, MAIN_TABLE, network.prefixlen, base + ports))
    for network in map(ipaddress.ip_network, DENIED_IPV4):
        base = [(1, network.network_address.packed), from_bridge, (6, native32(RULE_PRIORITY + 1))]
        rules.append((BLACKHOLE, 0, network.prefixlen, base))
    with netlink(ROUTE) as connection:
        for action, table, length, attributes in rules:
            header = struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, table, 0, 0, action, 0)
            try:
                flags = REQUEST | ACK | CREATE | EXCLUSIVE
                send(connection, [message(NEW_ROUTING_RULE, flags, 1, header + pack(attributes))], acks=1)
            except FileExistsError:
                continue


def transports(port: "int | None") -> "list[Attributes]":
    """What a routing rule says of the ports that it is for."""
    if port is None:
        return [[]]
    return [[(22, bytes([protocol])), (24, struct.pack("=HH", port, port))] for protocol in WITH_PORTS]


def destination(text: str) -> "Destination":
    """A network, and the port behind its last colon."""
    network, slash, length = text.partition("/")
    bits, _, port = length.partition(":")
    return ipaddress.ip_network(network + slash + bits), int(port) if port else None


# --- nftables


def egress_rules(whose: "Attributes", allowed: "list[Destination]") -> "list[Attributes]":
    """What is allowed wherever it is, then what is denied; anything else passes."""
    mail = [whose + to_port(socket.IPPROTO_TCP, port) + verdict(DROP) for port in MAIL]
    denied = [
        whose + to_network(ipaddress.ip_network(network)) + verdict(DROP) for network in DENIED_IPV4 + DENIED_IPV6
    ]
    return [*exceptions(whose, allowed), *mail, *denied]


def host_rules(whose: "Attributes", allowed: "list[Destination]") -> "list[Attributes]":
    """What the host itself may be asked: nothing else."""
    return [*exceptions(whose, allowed), whose + verdict(DROP)]


def exceptions(whose: "Attributes", allowed: "list[Destination]") -> "list[Attributes]":
    first, last = NEIGHBOUR_DISCOVERY
    kind = load(TRANSPORT, 0, 1)
    discovery = [*of_protocol(ICMPV6), kind, compare(AT_LEAST, bytes([first])), kind, compare(AT_MOST, bytes([last]))]
    found = [whose + discovery + verdict(ACCEPT)]
    found += [whose + to_port(protocol, NAME_SERVICE) + verdict(ACCEPT) for protocol in WITH_PORTS]
    for network, port in allowed:
        target = whose + to_network(network)
        ports = [[]] if port is None else [to_port(protocol, port) for protocol in WITH_PORTS]
        found += [target + at_port + verdict(ACCEPT) for at_port in ports]
    return found


def to_network(network: "Network") -> "Attributes":
    address, mask = network.network_address.packed, network.netmask.packed
    size = len(address)
    masked = expression(
        "bitwise", [(1, be32(1)), (2, be32(1)), (3, be32(size)), (4, [(1, mask)]), (5, [(1, bytes(size))])]
    )
    return [
        *at(LINK, 12, ETHERNET[network.version]),
        load(NETWORK, TARGET_OFFSET[network.version], size),
        masked,
        equals(address),
    ]


def to_port(protocol: int, port: int) -> "Attributes":
    return [*of_protocol(protocol), *at(TRANSPORT, 2, struct.pack(">H", port))]


def of_protocol(protocol: int) -> "Attributes":
    """The packet is of this protocol, whatever headers of IPv6 come before it."""
    return [expression("meta", [(1, be32(1)), (2, be32(PROTOCOL))]), equals(bytes([protocol]))]


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
    return compare(EQUAL, value)


def compare(operation: int, value: bytes) -> "tuple[int, Any]":
    return expression("cmp", [(1, be32(1)), (2, be32(operation)), (3, [(1, value)])])


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
