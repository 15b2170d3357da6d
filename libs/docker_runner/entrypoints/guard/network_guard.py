"""Install the bots' egress rules in the kernel of the engine's host; runs in a helper container, once a minute.

It uses netlink directly (`nftables.py`): bot images have neither iptables nor nft, and the host's own may not be
reachable. Needs CAP_NET_ADMIN in the network namespace of the engine. Repeating it replaces the rules, in one step for
the packets, and prints ``missing`` if some of them were not there, or ``differs`` if others were there, as a worker
with other settings leaves them.

    network_guard.py by-address PREFIX LIMITS ALLOWED...   each network card whose MAC address begins with PREFIX (06b0)
    network_guard.py by-bridge BRIDGE LIMITS ALLOWED...    everything on that bridge
    network_guard.py narrowed PREFIX LIMITS ALLOWED...     the same, for cards that reach only what ENTRIES lists
    network_guard.py narrowed-on-bridge PREFIX LIMITS      such cards on a bridge whose rules hold for them as well

A bot reaches public addresses only. Denied are the networks in DENIED, every address of the host itself, and mail
servers; allowed are DNS, which some clouds serve at such addresses, and ALLOWED: networks, each with a port behind a
colon or without (10.1.2.3/32:8443).

LIMITS are those of one card, with commas: connections, new connections per second, packets and bytes that it sends per
second, bytes that it receives per second. A kernel that cannot count by card leaves bots without them, and
``unlimited:`` is printed with the reason. Where cards were refused lately is printed behind ``refused:``. The kernel's
tables of neighbours get more room, or else ``neighbours:`` is printed with the reason.
"""

import ipaddress
import json
import os
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from libs.docker_runner.entrypoints.guard import narrowing, neighbours
    from libs.docker_runner.entrypoints.guard import nftables as nft

    Attributes = nft.Attributes
    Chains = dict[tuple[str, int], list[Attributes]]
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network
    Destination = tuple[Network, int | None]
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import narrowing  # pants: no-infer-dep
    import neighbours  # pants: no-infer-dep
    import nftables as nft  # pants: no-infer-dep

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
# Mounted by the worker: a line for each card, address and port.
ENTRIES = "/entries"
NAME_SERVICE = 53
WITH_PORTS = (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
MAIL = (25, 465, 587)
SYN, ACK = 0x02, 0x10
# For so many seconds a card that was idle may open connections faster.
BURST_SECONDS = 10
CONNECTIONS, OPENED, PACKETS, BYTES = ("connections", 0), ("opened", 60_000), ("packets", 60_000), ("bytes", 60_000)
RECEIVED = ("received", 60_000)
BOTS, NARROWED = "the0-bots", "the0-narrowed"

NEW_ROUTING_RULE = 32
BLACKHOLE, TO_TABLE, MAIN_TABLE = 6, 1, 254
RULE_PRIORITY = 10


def main() -> int:
    mode, subject = sys.argv[1:3]
    limits = [int(number) for number in sys.argv[3].split(",")]
    allowed = [destination(argument) for argument in sys.argv[4:]]
    if mode == "by-address":
        say_neighbours()
        prefix = bytes.fromhex(subject)
        by_address(prefix, allowed)
        limited(nft.at(nft.LINK, nft.SENDER, prefix), limits)
        limited_in(nft.at(nft.LINK, nft.RECEIVER, prefix), limits)
        show_refused(*tables_of(BOTS))
        return 0
    if mode in ("narrowed", "narrowed-on-bridge"):
        prefix = bytes.fromhex(subject)
        whose = nft.at(nft.LINK, nft.SENDER, prefix)
        with open(ENTRIES) as file:
            entries = [narrowing.entry(line) for line in file]
        # First: the other tables alone would let a card reach everything public.
        narrowing.install(whose, entries)
        if mode == "narrowed-on-bridge":
            show_refused((narrowing.TABLE, nft.INET_FAMILY))
            return 0
        by_address(prefix, allowed, NARROWED)
        limited(whose, limits, f"{NARROWED}-limits")
        limited_in(nft.at(nft.LINK, nft.RECEIVER, prefix), limits, f"{NARROWED}-received")
        show_refused((narrowing.TABLE, nft.INET_FAMILY), *tables_of(NARROWED))
        return 0
    say_neighbours()
    failures = []
    # One is enough: the first also catches what is redirected or served by the host itself, the second is for kernels
    # without nftables.
    for name, wall in (("nftables", by_bridge), ("routing", by_route)):
        try:
            wall(subject, allowed)
        except OSError as error:
            failures.append(f"{name}: {error.strerror or error}")
    if len(failures) == 2:
        print("; ".join(failures), file=sys.stderr)  # noqa: T201 - the worker reads it from the container's log
        return 1
    limited(nft.interface(nft.IN_NAME, subject), limits)
    # Of what is forwarded only the address is known, not the card; the network has no IPv6.
    limited_in(nft.interface(nft.OUT_NAME, subject), limits, hook=("forward", nft.FORWARD), what=nft.TO_IPV4)
    # Where the rules by address are there as well, such as another worker's, they refuse first.
    show_refused(("the0-" + subject, nft.INET_FAMILY), *tables_of(BOTS))
    return 0


def say_neighbours() -> None:
    if reason := neighbours.ensure_room():
        print("neighbours:", reason)  # noqa: T201 - the worker reads it from the container's log


def show_refused(*tables: "tuple[str, int]") -> None:
    for part in narrowing.refused(*tables):
        print("refused:", json.dumps(part))  # noqa: T201 - the worker reads it from the container's log


def tables_of(name: str) -> "list[tuple[str, int]]":
    return [(name, family) for family in (nft.BRIDGE_FAMILY, nft.INET_FAMILY)]


def by_address(prefix: bytes, allowed: "list[Destination]", table: str = BOTS) -> None:
    """No frame passes between a walled card and another port of its bridge, no packet of it to what is denied.

    What passes the bridge is filtered before the host can redirect it, and once more by where it was redirected to.
    """
    source, target = nft.at(nft.LINK, nft.SENDER, prefix), nft.at(nft.LINK, nft.RECEIVER, prefix)

    def install(refuse: "Attributes", inner: "Chains", sets: "list[nft.KeySet]") -> None:
        frames = {
            **inner,
            ("prerouting", nft.PREROUTING): egress_rules(source, allowed, refuse),
            ("forward", nft.FORWARD): [source + nft.drop(), target + nft.drop()],
        }
        packets = {
            **inner,
            ("forward", nft.FORWARD): egress_rules(source, allowed, refuse),
            ("input", nft.INPUT): host_rules(source, allowed, refuse),
        }
        nft.replace_table(table, nft.BRIDGE_FAMILY, frames, sets=sets)
        nft.replace_table(table, nft.INET_FAMILY, packets, sets=sets)

    noting_refused(install)


def noting_refused(install: "Callable[[Attributes, Chains, list[nft.KeySet]], None]") -> None:
    """Install tables whose refusals are noted, by what to do with a packet, further chains, and sets."""
    try:
        noting = {("refuse", nft.INNER): narrowing.noted_and_dropped([])}
        install(nft.jump("refuse"), noting, narrowing.noted_sets())
    except OSError:
        # A kernel without such sets: refused as well, but not shown.
        install(nft.drop(), {}, [])


def by_bridge(bridge: str, allowed: "list[Destination]") -> None:
    """The same for what comes from the bridge.

    The engine's own rule against what passes between its ports is repeated, since it comes back with the engine only.
    """
    arrived, leaving = nft.interface(nft.IN_NAME, bridge), nft.interface(nft.OUT_NAME, bridge)

    def install(refuse: "Attributes", inner: "Chains", sets: "list[nft.KeySet]") -> None:
        chains = {
            **inner,
            ("prerouting", nft.PREROUTING): egress_rules(arrived, allowed, refuse),
            ("forward", nft.FORWARD): [arrived + leaving + nft.drop(), *egress_rules(arrived, allowed, refuse)],
            ("input", nft.INPUT): host_rules(arrived, allowed, refuse),
        }
        nft.replace_table("the0-" + bridge, nft.INET_FAMILY, chains, sets=sets)

    noting_refused(install)


def by_route(bridge: str, allowed: "list[Destination]") -> None:
    """``ip rule add iif BRIDGE to NETWORK blackhole``; it stays when the bridge is made anew.

    Addresses of the host itself are not closed this way. The network has no IPv6.
    """
    from_bridge = (3, nft.text(bridge))
    rules = []
    for network, port in [(ipaddress.ip_network("0.0.0.0/0"), NAME_SERVICE), *allowed]:
        if network.version == 4:
            base = [(1, network.network_address.packed), from_bridge, (6, nft.native32(RULE_PRIORITY))]
            for ports in transports(port):
                rules.append((TO_TABLE, MAIN_TABLE, network.prefixlen, base + ports))
    for network in map(ipaddress.ip_network, DENIED_IPV4):
        base = [(1, network.network_address.packed), from_bridge, (6, nft.native32(RULE_PRIORITY + 1))]
        rules.append((BLACKHOLE, 0, network.prefixlen, base))
    with nft.netlink(nft.ROUTE) as connection:
        for action, table, length, attributes in rules:
            header = struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, table, 0, 0, action, 0)
            try:
                flags = nft.REQUEST | nft.ACK | nft.CREATE | nft.EXCLUSIVE
                nft.send(connection, [nft.message(NEW_ROUTING_RULE, flags, 1, header + nft.pack(attributes))], acks=1)
            except FileExistsError:
                continue


def transports(port: "int | None") -> "list[Attributes]":
    """Return the attributes that limit routing rules to *port*, one set for each protocol."""
    if port is None:
        return [[]]
    return [[(22, bytes([protocol])), (24, struct.pack("=HH", port, port))] for protocol in WITH_PORTS]


def destination(argument: str) -> "Destination":
    """A network, and the port behind its last colon."""
    network, slash, length = argument.partition("/")
    bits, _, port = length.partition(":")
    return ipaddress.ip_network(network + slash + bits), int(port) if port else None


def limited(whose: "Attributes", limits: "list[int]", table: str = "the0-limits") -> None:
    """One card's share of the host's network and of its table of connections.

    Counting goes on when this is repeated: the table is replaced only if it differs.
    """
    connections, new_per_second, packets_per_second, bytes_per_second, _ = limits
    opening = [*nft.to_protocol(socket.IPPROTO_TCP), *nft.flags_at(nft.TRANSPORT, 13, SYN | ACK, SYN)]
    too_many = [*nft.new_connection(), *nft.counts_above(CONNECTIONS, nft.above_connections(connections))]
    too_fast = [*opening, *nft.counts_above(OPENED, nft.above_rate(new_per_second, BURST_SECONDS * new_per_second))]
    chains = {
        ("prerouting", nft.PREROUTING): [
            [*whose, *nft.counts_above(PACKETS, nft.above_rate(packets_per_second, packets_per_second)), *nft.drop()],
            [*whose, *nft.counts_above(BYTES, nft.above_byte_rate(bytes_per_second)), *nft.drop()],
        ],
        ("forward", nft.FORWARD): [[*whose, *too_fast, *nft.drop()], [*whose, *too_many, *nft.drop()]],
        ("input", nft.INPUT): [[*whose, *too_many, *nft.drop()]],
    }
    counted_in(table, nft.INET_FAMILY, chains, [CONNECTIONS, OPENED, PACKETS, BYTES])


def limited_in(
    whose: "Attributes",
    limits: "list[int]",
    table: str = "the0-received",
    hook: "tuple[str, int]" = ("postrouting", nft.POSTROUTING),
    what: "nft.Counted" = nft.TO_CARD,
) -> None:
    """What one card receives per second: a sender slows down when packets are dropped on their way to the card."""
    too_much = nft.counts_above(RECEIVED, nft.above_byte_rate(limits[-1]), what)
    # Only the frames of a bridge name the card that they are for.
    family = nft.BRIDGE_FAMILY if what is nft.TO_CARD else nft.INET_FAMILY
    counted_in(table, family, {hook: [[*whose, *too_much, *nft.drop()]]}, [RECEIVED], what)


def counted_in(
    table: str,
    family: int,
    chains: "Chains",
    counts: "list[tuple[str, int]]",
    what: "nft.Counted" = nft.FROM_CARD,
) -> None:
    try:
        nft.replace_table(table, family, chains, counts, counted=what)
    except OSError as error:
        print(f"unlimited: {error.strerror or error}")  # noqa: T201 - the worker reads it from the container's log


# --- nftables


def egress_rules(whose: "Attributes", allowed: "list[Destination]", refuse: "Attributes") -> "list[Attributes]":
    """Return the rules for destinations: exceptions, then mail and denied networks; all other packets pass."""
    mail = [whose + to_port(socket.IPPROTO_TCP, port) + refuse for port in MAIL]
    denied = [whose + to_network(ipaddress.ip_network(network)) + refuse for network in DENIED_IPV4 + DENIED_IPV6]
    return [*exceptions(whose, allowed), *mail, *denied]


def host_rules(whose: "Attributes", allowed: "list[Destination]", refuse: "Attributes") -> "list[Attributes]":
    """Return the rules for the host's own addresses: exceptions, and nothing else."""
    return [*exceptions(whose, allowed), whose + refuse]


def exceptions(whose: "Attributes", allowed: "list[Destination]") -> "list[Attributes]":
    found = [whose + nft.neighbour_discovery() + nft.accept()]
    found += [whose + to_port(protocol, NAME_SERVICE) + nft.accept() for protocol in WITH_PORTS]
    for network, port in allowed:
        target = whose + to_network(network)
        ports = [[]] if port is None else [to_port(protocol, port) for protocol in WITH_PORTS]
        found += [target + at_port + nft.accept() for at_port in ports]
    return found


def to_network(network: "Network") -> "Attributes":
    address, mask = network.network_address.packed, network.netmask.packed
    return [
        *nft.at(nft.LINK, 12, nft.ETHERNET[network.version]),
        nft.load(nft.NETWORK, nft.TARGET_OFFSET[network.version], len(address)),
        nft.masked(mask),
        nft.equals(address),
    ]


def to_port(protocol: int, port: int) -> "Attributes":
    return [*nft.to_protocol(protocol), *nft.at(nft.TRANSPORT, 2, struct.pack(">H", port))]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as failure:
        sys.exit(str(failure))
