"""nftables by netlink, as far as the rules of bots need it; Python's standard library has neither."""

import hashlib
import os
import socket
import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    Attributes = list[tuple[int, Any]]
    # The name of a set, and after how many milliseconds without a packet a count is dropped; 0: when it is zero.
    Counts = tuple[str, int]

ROUTE, NETFILTER = 0, 12
REQUEST, ACK, DUMP, EXCLUSIVE, CREATE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x800
ERROR, DONE = 2, 3
HEADER_BYTES = 16
NESTED = 0x8000

BATCH_BEGIN, BATCH_END = 16, 17
NEW_TABLE, GET_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, GET_RULE = 0xA00, 0xA01, 0xA02, 0xA03, 0xA06, 0xA07
NEW_SET, NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 0xA09, 0xA0C, 0xA0D, 0xA0E
DIGEST = 6
INET_FAMILY, BRIDGE_FAMILY = 1, 7
PREROUTING, INPUT, FORWARD, POSTROUTING = 0, 1, 2, 4
# A chain that packets reach from another one only.
INNER = -1
# Before connection tracking and before all that redirects packets.
FIRST = -310
DROP, ACCEPT, JUMP = 0, 1, 0xFFFFFFFD
LINK, NETWORK, TRANSPORT = 0, 1, 2
IN_NAME, OUT_NAME, PROTOCOL = 6, 7, 16
EQUAL, DIFFERENT, AT_MOST, AT_LEAST = 0, 1, 3, 5
# Of connection tracking.
STATE, NEW = 0, 0x08
# Sets with a count for each card.
TIMED, EVALUATED, ADD, UPDATE, ABOVE = 0x10, 0x20, 0, 1, 1
PACKETS, BYTES = 0, 1
EXPRESSION = 7
CARDS = 65535
# Where a frame names the cards it is for and from.
RECEIVER, SENDER = 0, 6
ETHERNET = {4: struct.pack(">H", 0x0800), 6: struct.pack(">H", 0x86DD)}
TARGET_OFFSET = {4: 16, 6: 24}
ICMPV6 = 58
NEIGHBOUR_DISCOVERY = (133, 136)


class KeySet(NamedTuple):
    """A set of keys, each dropped *milliseconds* after it was added or last seen."""

    name: str
    type: int
    bytes: int
    entries: int
    milliseconds: int


class Counted(NamedTuple):
    """A part of a packet by which is counted, and its type as `nft list` names it."""

    base: int
    offset: int
    bytes: int
    type: int


FROM_CARD, TO_CARD = (Counted(LINK, place, 6, 9) for place in (SENDER, RECEIVER))
TO_IPV4 = Counted(NETWORK, TARGET_OFFSET[4], 4, 7)


def replace_table(
    name: str,
    family: int,
    chains: "dict[tuple[str, int], list[Attributes]]",
    counts: "Sequence[Counts]" = (),
    sets: "Sequence[KeySet]" = (),
    counted: Counted = FROM_CARD,
) -> None:
    """Make the table anew, in one step for the packets.

    Args:
        counts: sets with a count for each of *counted*. A table with sets stays if it is the same already.
        sets: sets of other keys.
        counted: the part of a packet by whose value *counts* count.
    """
    # Without other sets, the digest is that of versions before them, so that an upgrade keeps the counts.
    described_by = (sorted(chains.items()), counts, sets) if sets else (sorted(chains.items()), counts)
    digest = hashlib.sha256(repr(described_by).encode()).digest()
    expected = sum(len(rules) for rules in chains.values())
    found = rules_in(name, family)
    before = digest_of(name, family)
    if before and before != digest:
        print("differs")  # noqa: T201 - the worker reads it from the container's log
    elif found < expected:
        print("missing")  # noqa: T201 - as above
    if (counts or sets) and found == expected and before == digest:
        return
    table, described = (1, text(name)), (DIGEST, digest)
    # Made first, so that the removal finds one.
    steps: list[tuple[int, int, Attributes]] = [
        (NEW_TABLE, CREATE, [table]),
        (DELETE_TABLE, 0, [table]),
        (NEW_TABLE, CREATE, [table, described]),
    ]
    for identifier, (counted_in, milliseconds) in enumerate(counts, start=1):
        keys = [(4, be32(counted.type)), (5, be32(counted.bytes)), (9, [(1, be32(CARDS))]), (10, be32(identifier))]
        life = [(3, be32(EVALUATED | TIMED)), (11, be64(milliseconds))] if milliseconds else [(3, be32(EVALUATED))]
        made = [table, (2, text(counted_in)), *keys, *life]
        steps.append((NEW_SET, CREATE, made))
    for identifier, keyed in enumerate(sets, start=1 + len(counts)):
        keys = [(4, be32(keyed.type)), (5, be32(keyed.bytes)), (9, [(1, be32(keyed.entries))]), (10, be32(identifier))]
        life = [(3, be32(EVALUATED | TIMED)), (11, be64(keyed.milliseconds))]
        steps.append((NEW_SET, CREATE, [table, (2, text(keyed.name)), *keys, *life]))
    # All chains before the rules that lead from one to another.
    for chain, number in chains:
        made = [table, (3, text(chain))]
        if number != INNER:
            hook = [(1, be32(number)), (2, struct.pack(">i", FIRST))]
            made += [(4, hook), (5, be32(ACCEPT)), (7, text("filter"))]
        steps.append((NEW_CHAIN, CREATE, made))
    for (chain, _), rules in chains.items():
        steps += [(NEW_RULE, CREATE | APPEND, [table, (2, text(chain)), (4, rule)]) for rule in rules]
    in_one_step(family, steps)


def renew_elements(table: str, family: int, keyed: str, keys: "Sequence[bytes]") -> None:
    """Add *keys* to the set, or begin their time anew, in one step for the packets."""
    elements = [(1, [(1, [(1, key)])]) for key in keys]
    described = [(1, text(table)), (2, text(keyed)), (3, elements)]
    # Made first, so that the removal finds each; only a new element begins its time anew.
    added = (NEW_ELEMENT, CREATE, described)
    in_one_step(family, [added, (DELETE_ELEMENT, 0, described), added])


def in_one_step(family: int, steps: "list[tuple[int, int, Attributes]]") -> None:
    """Apply all *steps* (kind, flags, attributes) or none."""
    batch = struct.pack(">BBH", socket.AF_UNSPEC, 0, 10)
    messages = [message(BATCH_BEGIN, REQUEST, 0, batch)]
    for number, (kind, flags, attributes) in enumerate(steps, start=1):
        body = struct.pack(">BBH", family, 0, 0) + pack(attributes)
        messages.append(message(kind, REQUEST | ACK | flags, number, body))
    messages.append(message(BATCH_END, REQUEST, len(steps) + 1, batch))
    with netlink(NETFILTER) as connection:
        send(connection, messages, acks=len(steps))


def digest_of(name: str, family: int) -> bytes:
    """What :func:`replace_table` has written beside the table; empty when there is none."""
    return next(
        (dict(table).get(DIGEST, b"") for table in answers(GET_TABLE, 0, NEW_TABLE, family, [(1, text(name))])), b""
    )


def rules_in(name: str, family: int) -> int:
    """How many rules the table has; 0 when there is none."""
    return sum(1 for _ in answers(GET_RULE, DUMP, NEW_RULE, family, [(1, text(name))]))


def elements(table: str, family: int, keyed: str) -> "Iterator[tuple[bytes, int]]":
    """Yield the keys in the set, each with its number of packets (0 when it has no counter)."""
    whole = [(1, text(table)), (2, text(keyed))]
    for part in answers(GET_ELEMENT, DUMP, NEW_ELEMENT, family, whole):
        for element in unpack(dict(part).get(3, b"")):
            described = dict(unpack(element[1]))
            counter = dict(unpack(dict(unpack(described.get(EXPRESSION, b""))).get(2, b"")))
            (packets,) = struct.unpack(">Q", counter.get(2, bytes(8)))
            yield dict(unpack(described[1]))[1], packets


def answers(
    asked: int, flags: int, answered: int, family: int, attributes: "Attributes"
) -> "Iterator[list[tuple[int, bytes]]]":
    """Yield the attributes of each message of the kind *answered*; none when the kernel knows nothing of the kind."""
    body = struct.pack(">BBH", family, 0, 0) + pack(attributes)
    with netlink(NETFILTER) as connection:
        connection.send(message(asked, REQUEST | flags, 1, body))
        while True:
            data = connection.recv(65536)
            while len(data) >= HEADER_BYTES:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (DONE, ERROR):
                    return
                if kind == answered:
                    yield list(unpack(data[HEADER_BYTES + 4 : length]))
                    if not flags & DUMP:
                        return
                data = data[(length + 3) & ~3 :]


def interface(direction: int, name: str) -> "Attributes":
    """The packet comes from, or goes to, the interface of that name."""
    return [expression("meta", [(1, be32(1)), (2, be32(direction))]), equals(name.encode().ljust(16, b"\0"))]


def at(base: int, offset: int, value: bytes) -> "Attributes":
    """The packet has *value* there."""
    return [load(base, offset, len(value)), equals(value)]


def load(base: int, offset: int, length: int) -> "tuple[int, Any]":
    return load_into(1, base, offset, length)


def load_into(register: int, base: int, offset: int, length: int) -> "tuple[int, Any]":
    return expression("payload", [(1, be32(register)), (2, be32(base)), (3, be32(offset)), (4, be32(length))])


def contained(keyed: str, register: int) -> "tuple[int, Any]":
    """The set has the key that begins in *register*."""
    return expression("lookup", [(1, text(keyed)), (2, be32(register))])


def remember(keyed: str, milliseconds: int, register: int, *, counter: bool = False) -> "tuple[int, Any]":
    """Add the key that begins in *register* to the set, or begin its time anew; a full set is left as it is."""
    count = [(7, [(1, text("counter"))])] if counter else []
    timed = [(3, be32(UPDATE)), (4, be32(register)), (6, be64(milliseconds))]
    return expression("dynset", [(1, text(keyed)), *timed, *count])


def masked(mask: bytes) -> "tuple[int, Any]":
    """Keep only the bits in *mask* of what was loaded, which has its length."""
    size = len(mask)
    return expression(
        "bitwise", [(1, be32(1)), (2, be32(1)), (3, be32(size)), (4, [(1, mask)]), (5, [(1, bytes(size))])]
    )


def equals(value: bytes) -> "tuple[int, Any]":
    return compare(EQUAL, value)


def compare(operation: int, value: bytes) -> "tuple[int, Any]":
    return expression("cmp", [(1, be32(1)), (2, be32(operation)), (3, [(1, value)])])


def to_protocol(protocol: int) -> "Attributes":
    """The packet is of this protocol, with any extension headers of IPv6."""
    return [expression("meta", [(1, be32(1)), (2, be32(PROTOCOL))]), equals(bytes([protocol]))]


def neighbour_discovery() -> "Attributes":
    """The packet is one without which IPv6 finds no neighbour and no router."""
    kind = load(TRANSPORT, 0, 1)
    first, last = NEIGHBOUR_DISCOVERY
    return [*to_protocol(ICMPV6), kind, compare(AT_LEAST, bytes([first])), kind, compare(AT_MOST, bytes([last]))]


def flags_at(base: int, offset: int, mask: int, value: int) -> "Attributes":
    """Of the byte there, the bits in *mask* are those of *value*."""
    return [load(base, offset, 1), masked(bytes([mask])), equals(bytes([value]))]


def new_connection() -> "Attributes":
    """Nothing has been answered on the packet's connection yet."""
    state = expression("ct", [(1, be32(1)), (2, be32(STATE))])
    return [state, masked(native32(NEW)), compare(DIFFERENT, bytes(4))]


def counts_above(counts: "Counts", limit: "tuple[int, Any]", what: Counted = FROM_CARD) -> "Attributes":
    """*what* the packet has is above *limit*; *counts* has a count for each."""
    (name, milliseconds), (_, measured) = counts, limit
    operation = UPDATE if milliseconds else ADD
    return [
        load(what.base, what.offset, what.bytes),
        expression("dynset", [(1, text(name)), (3, be32(operation)), (4, be32(1)), (7, measured)]),
    ]


def above_connections(count: int) -> "tuple[int, Any]":
    return expression("connlimit", [(1, be32(count)), (2, be32(ABOVE))])


def above_rate(per_second: int, burst: int) -> "tuple[int, Any]":
    return expression("limit", [*rate(per_second, burst), (4, be32(PACKETS))])


def above_byte_rate(per_second: int) -> "tuple[int, Any]":
    # The kernel adds the bytes of a second to the burst.
    return expression("limit", [*rate(per_second, 0), (4, be32(BYTES))])


def rate(per_second: int, burst: int) -> "Attributes":
    return [(1, be64(per_second)), (2, be64(1)), (3, be32(burst)), (5, be32(ABOVE))]


def drop() -> "Attributes":
    return verdict(DROP)


def accept() -> "Attributes":
    return verdict(ACCEPT)


def jump(chain: str) -> "Attributes":
    """Go on with the rules of an inner chain, and come back behind them."""
    return verdict(JUMP, [(2, text(chain))])


def verdict(code: int, target: "Attributes | None" = None) -> "Attributes":
    return [expression("immediate", [(1, be32(0)), (2, [(2, [(1, be32(code)), *(target or [])])])])]


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
    """Attributes in the format of netlink; a list as value is nested."""
    packed = b""
    for kind, value in attributes:
        nested = isinstance(value, list)
        data = pack(value) if nested else value
        packed += struct.pack("=HH", 4 + len(data), kind | (NESTED if nested else 0)) + data + bytes(-len(data) % 4)
    return packed


def unpack(data: bytes) -> "Iterator[tuple[int, bytes]]":
    """Yield the attributes in *data*; nested ones are bytes to unpack again."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & ~NESTED, data[at + 4 : at + size]
        at += (size + 3) & ~3


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def be64(value: int) -> bytes:
    return struct.pack(">Q", value)


def native32(value: int) -> bytes:
    return struct.pack("=I", value)


def text(value: str) -> bytes:
    return value.encode() + b"\0"
