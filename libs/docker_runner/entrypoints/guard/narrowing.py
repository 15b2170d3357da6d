"""The rules of cards that reach listed hosts only; a part of `network_guard.py`.

A table of the inet family has sets of what each card may reach (its address, the target's address and port), with a
time after which an entry is dropped unless it is added again. A connection that exists stays as long as it sends a
packet now and then, also when its entry is gone. DNS and the host itself are closed.
"""

import ipaddress
import os
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from libs.docker_runner.entrypoints.guard import nftables as nft

    Attributes = nft.Attributes
    # A card, an address, a port.
    Entry = tuple[bytes, ipaddress.IPv4Address | ipaddress.IPv6Address, int]
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import nftables as nft  # pants: no-infer-dep

TABLE = "the0-narrowed-hosts"
ENTRY_SECONDS = 900
IDLE_SECONDS = 3600
REFUSED_SECONDS = 600
ENTRIES, REFUSED_ENTRIES = 65535, 4096
ALLOWED, LIVE, REFUSED = "allowed", "live", "refused"
ADDRESS_BYTES = {4: 4, 6: 16}
# As `nft list` names the parts of a key: an Ethernet address, an IP address, a port.
ADDRESS_TYPE = {4: 7, 6: 8}
ETHERNET_TYPE, PORT_TYPE, TYPE_BITS = 9, 13, 6
WITH_PORTS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
# Registers of four bytes; the key is built in them.
CARD_REGISTER, ADDRESS_REGISTER = 8, 10
ESTABLISHED = 0x02 | 0x04
CHUNK = 500
# Of one printed line, which the engine's log must not split.
REFUSED_CARDS, REFUSED_TARGETS = 60, 5
REFUSED_LINES = 20


def install(whose: "Attributes", entries: "list[Entry]") -> None:
    """Install the table and renew *entries* in it. Connections go on when this is repeated."""
    sets = [
        set_of(name, version, size, seconds)
        for version in ADDRESS_BYTES
        for name, size, seconds in (
            (ALLOWED, ENTRIES, ENTRY_SECONDS),
            (LIVE, ENTRIES, IDLE_SECONDS),
            (REFUSED, REFUSED_ENTRIES, REFUSED_SECONDS),
        )
    ]
    chains = {
        ("forward", nft.FORWARD): forwarded(whose),
        ("input", nft.INPUT): [[*whose, *nft.neighbour_discovery(), *nft.accept()], [*whose, *nft.drop()]],
    }
    nft.replace_table(TABLE, nft.INET_FAMILY, chains, sets=sets)
    for version in ADDRESS_BYTES:
        keys = [key(*entry) for entry in entries if entry[1].version == version]
        for begin in range(0, len(keys), CHUNK):
            nft.renew_elements(TABLE, nft.INET_FAMILY, f"{ALLOWED}{version}", keys[begin : begin + CHUNK])


def forwarded(whose: "Attributes") -> "list[Attributes]":
    """Return the rules in their order: what is allowed, what is open already, and nothing else."""
    rules = []
    for version in ADDRESS_BYTES:
        for protocol in WITH_PORTS:
            packet = [*whose, *of_protocol(version, protocol), *load_key(version)]
            renew_live = nft.remember(f"{LIVE}{version}", IDLE_SECONDS * 1000, CARD_REGISTER)
            allowed = nft.contained(f"{ALLOWED}{version}", CARD_REGISTER)
            live = nft.contained(f"{LIVE}{version}", CARD_REGISTER)
            rules.append([*packet, allowed, renew_live, *nft.accept()])
            rules.append([*whose, *open_connection(), *packet[len(whose) :], live, renew_live, *nft.accept()])
    return [*rules, *noted_and_dropped(whose)]


def noted_and_dropped(whose: "Attributes") -> "list[Attributes]":
    """Return the rules that note where a packet is for in the set of refused targets, and drop it."""
    rules = []
    for version in ADDRESS_BYTES:
        for protocol in WITH_PORTS:
            note = nft.remember(f"{REFUSED}{version}", REFUSED_SECONDS * 1000, CARD_REGISTER, counter=True)
            rules.append([*whose, *of_protocol(version, protocol), *load_key(version), note])
    # Of its own: a full set ends a rule that would note something in it.
    return [*rules, [*whose, *nft.drop()]]


def noted_sets() -> "list[nft.KeySet]":
    """Return the sets of refused targets."""
    return [set_of(REFUSED, version, REFUSED_ENTRIES, REFUSED_SECONDS) for version in ADDRESS_BYTES]


def set_of(name: str, version: int, entries: int, seconds: int) -> "nft.KeySet":
    return nft.KeySet(f"{name}{version}", key_type(version), 12 + ADDRESS_BYTES[version], entries, seconds * 1000)


def refused(*tables: "tuple[str, int]") -> "list[dict[str, list[str]]]":
    """Return where cards were refused lately: for each the addresses with ports that most packets were for.

    Args:
        tables: names and families.

    Returns:
        Parts, of which each fits into a line.
    """
    by_card: dict[str, dict[str, int]] = {}
    for table, family in tables:
        for version, size in ADDRESS_BYTES.items():
            for found, packets in nft.elements(table, family, f"{REFUSED}{version}"):
                address = ipaddress.ip_address(found[8 : 8 + size])
                (port,) = struct.unpack_from(">H", found, 8 + size)
                target = f"[{address}]:{port}" if version == 6 else f"{address}:{port}"
                counts = by_card.setdefault(found[:6].hex(":"), {})
                counts[target] = counts.get(target, 0) + packets
    shown = [(card, most_refused(counts)) for card, counts in sorted(by_card.items())][: REFUSED_LINES * REFUSED_CARDS]
    return [dict(shown[begin : begin + REFUSED_CARDS]) for begin in range(0, len(shown), REFUSED_CARDS)]


def most_refused(counts: "dict[str, int]") -> "list[str]":
    # In an order that more packets do not change.
    return sorted(sorted(counts, key=lambda target: (-counts[target], target))[:REFUSED_TARGETS])


def entry(line: str) -> "Entry":
    """Read ``06:b1:00:00:00:01 198.51.100.9 443``."""
    card, address, port = line.split()
    return bytes.fromhex(card.replace(":", "")), ipaddress.ip_address(address), int(port)


def key(card: bytes, address: "ipaddress.IPv4Address | ipaddress.IPv6Address", port: int) -> bytes:
    """Return the key as the kernel has it: each part fills whole registers."""
    return card + bytes(2) + address.packed + struct.pack(">H", port) + bytes(2)


def key_type(version: int) -> int:
    return ETHERNET_TYPE << 2 * TYPE_BITS | ADDRESS_TYPE[version] << TYPE_BITS | PORT_TYPE


def load_key(version: int) -> "Attributes":
    size = ADDRESS_BYTES[version]
    return [
        nft.load_into(CARD_REGISTER, nft.LINK, 6, 6),
        nft.load_into(ADDRESS_REGISTER, nft.NETWORK, nft.TARGET_OFFSET[version], size),
        nft.load_into(ADDRESS_REGISTER + size // 4, nft.TRANSPORT, 2, 2),
    ]


def of_protocol(version: int, protocol: int) -> "Attributes":
    return [*nft.at(nft.LINK, 12, nft.ETHERNET[version]), *nft.to_protocol(protocol)]


def open_connection() -> "Attributes":
    """The packet belongs to a connection that was answered."""
    state = nft.expression("ct", [(1, nft.be32(1)), (2, nft.be32(nft.STATE))])
    return [state, nft.masked(nft.native32(ESTABLISHED)), nft.compare(nft.DIFFERENT, bytes(4))]
