"""JSON from a source that may be hostile: checked against bounds before a value is built of it. Pure.

``json.loads`` alone is unsafe for such input: 1,000 opening brackets raise RecursionError, a number of 5,000 digits
raises ValueError, and 64 MiB of ``[]`` take gigabytes. :func:`scan` builds no value: regular expressions match runs of
values at the speed of C, and Python steps only through containers that hold other containers. It takes linear time and
next to no memory.

This file is also a program (see :func:`main`), which runs without the rest of the project: it imports nothing of it.
"""

import codecs
import json
import mmap
import os
import re
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_DIGITS = 1000
"""Of one part of a number: the interpreter refuses an integer of more than 4,300."""

_CHUNK_BYTES = 1024 * 1024
_PROGRAM_BYTES = 256 * 1024 * 1024
_PROGRAM_SECONDS = 60
_NICENESS = 10

Text = bytes | mmap.mmap


class Fault(StrEnum):
    """Why a text is refused."""

    BYTES = "too-large"
    DEPTH = "too-deep"
    VALUES = "too-many-values"
    DIGITS = "number-too-long"
    ENCODING = "not-utf-8"
    SYNTAX = "not-json"


class Kind(StrEnum):
    """What a JSON text is at its top."""

    OBJECT = "object"
    ARRAY = "array"
    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True)
class Bounds:
    """What a text may have at most.

    Attributes:
        bytes: its size.
        depth: containers (objects and arrays) within each other.
        values: containers, strings (keys apart), numbers, booleans and nulls.
    """

    bytes: int
    depth: int
    values: int


@dataclass(frozen=True)
class Shape:
    """What an accepted text is. *loose*: it has NaN or an infinity, which JSON does not have."""

    kind: Kind
    values: int
    loose: bool = False


@dataclass(frozen=True)
class Refused:
    """Why a text is not accepted. ``str`` is a predicate for people: "is nested more than 100 levels deep".

    Attributes:
        limit: the bound that it breaks; 0 where there is none.
        at: for :attr:`Fault.SYNTAX`, the byte at which it ceases to be JSON.
    """

    fault: Fault
    limit: int = 0
    at: int = 0

    def __str__(self) -> str:
        match self.fault:
            case Fault.BYTES:
                return f"is larger than {_size(self.limit)}"
            case Fault.DEPTH:
                return f"is nested more than {self.limit:,} levels deep"
            case Fault.VALUES:
                return f"has more than {self.limit:,} values"
            case Fault.DIGITS:
                return f"has a number of more than {self.limit:,} digits"
            case Fault.ENCODING:
                return "is not UTF-8"
        return f"is not JSON from byte {self.at:,} on"


@dataclass(frozen=True)
class Parsed:
    """The value of an accepted text."""

    value: object


def parse(text: bytes, bounds: Bounds) -> Parsed | Refused:
    """Return the value of *text*, NaN and infinities included. Never raises."""
    shape = scan(text, bounds)
    if isinstance(shape, Refused):
        return shape
    try:
        return Parsed(json.loads(text.decode()))
    except (ValueError, RecursionError):
        # Not reached while `scan` accepts no more than `json` does; a difference must not end a loop.
        return Refused(Fault.SYNTAX)


def scan(text: Text, bounds: Bounds, begin: int = 0) -> Shape | Refused:
    """Return what *text* from *begin* on is, without its value. Never raises.

    It holds the interpreter meanwhile, for up to 60 ms a MiB: check large texts in a process of their own.
    """
    if len(text) - begin > bounds.bytes:
        return Refused(Fault.BYTES, bounds.bytes)
    if not _is_utf8(text, begin):
        return Refused(Fault.ENCODING)
    return _Scan(text, bounds, begin).run()


def strict(text: Text, begin: int = 0) -> Iterator[bytes]:
    """Yield *text*, which :func:`scan` has accepted, piece by piece, with null for NaN and the infinities."""
    done = begin
    for match in _STRING_OR_LOOSE.finditer(text, begin):
        if match[0][:1] != b'"':
            yield from _pieces(text, done, match.start())
            yield b"null"
            done = match.end()
    yield from _pieces(text, done, len(text))


def _pieces(text: Text, begin: int, end: int) -> Iterator[bytes]:
    for at in range(begin, end, _CHUNK_BYTES):
        yield text[at : min(end, at + _CHUNK_BYTES)]


def _is_utf8(text: Text, begin: int) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in _pieces(text, begin, len(text)):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


# --- the grammar. Repetitions are possessive (*+): one that can give back would keep a state for each of its items.


def _repeated(item: bytes, times: bytes) -> bytes:
    """*item* as often as *times* allows, possessively.

    The atomic group matters to older Pythons, such as the 3.11.2 of Debian 12: without it, an attempt that fails within
    the item does not return to the item's first byte, and bytes that do not match are skipped.
    """
    return rb"(?:(?>%b))%b+" % (item, times)


_WS = rb"[ \t\n\r]*+"
_PLAIN_SIGNS = rb'[^"\\\x00-\x1f]*+'
_ESCAPED = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_STRING = rb'"%b%b"' % (_PLAIN_SIGNS, _repeated(_ESCAPED + _PLAIN_SIGNS, b"*"))
_DIGITS = rb"[0-9]{1,%d}+(?![0-9])" % MOST_DIGITS
_FRACTION = _repeated(rb"\." + _DIGITS, b"?")
_EXPONENT = _repeated(rb"[eE][-+]?" + _DIGITS, b"?")
_NUMBER = rb"-?(?:0|(?=[1-9])%b)%b%b(?![0-9.eE])" % (_DIGITS, _FRACTION, _EXPONENT)
_LOOSE = rb"NaN|-?Infinity"
_PLAIN = rb"(?:%b|%b|%b|true|false|null)" % (_LOOSE, _STRING, _NUMBER)
_FLAT_ITEMS = 63
_RUN_ITEMS = 256


def _member(value: bytes) -> bytes:
    return _STRING + _WS + rb":" + _WS + value


def _flat(opening: bytes, item: bytes, closing: bytes) -> bytes:
    """A container of a few *item*, or of nothing."""
    more = _repeated(rb"%b,%b%b" % (_WS, _WS, item), b"{0,%d}" % _FLAT_ITEMS)
    return rb"%b%b%b%b" % (opening, _WS, _repeated(item + more + _WS, b"?"), closing)


def _run(item: bytes) -> bytes:
    """Items that are followed by another one. Not too many: what a match found is counted afterwards."""
    return _repeated(rb"%b%b,%b" % (item, _WS, _WS), b"{0,%d}" % _RUN_ITEMS)


_VALUE = rb"(?:%b|%b|%b)" % (_PLAIN, _flat(rb"\[", _PLAIN, rb"\]"), _flat(rb"\{", _member(_PLAIN), rb"\}"))

_SPACE: Final = re.compile(_WS)
_ONE_VALUE: Final = re.compile(_VALUE)
_ELEMENTS: Final = re.compile(_run(_VALUE))
_MEMBERS: Final = re.compile(_run(_member(_VALUE)))
_KEY: Final = re.compile(_member(b""))
_TAIL: Final = re.compile(_WS + rb"([,\]}])" + _WS)
_STRINGS: Final = re.compile(_STRING)
_STRING_OR_LOOSE: Final = re.compile(_STRING + rb"|" + _LOOSE)
_LONG_NUMBER: Final = re.compile(rb"-?%b[0-9]{%d}" % (_repeated(_DIGITS + rb"[.eE][+-]?", b"*"), MOST_DIGITS + 1))
_EMPTY: Final = re.compile(rb"\[%b\]|\{%b\}" % (_WS, _WS))

_ARRAY, _OBJECT = ord("["), ord("{")
_CLOSING: Final = {_ARRAY: b"]", _OBJECT: b"}"}
_KINDS: Final = {
    b"{": Kind.OBJECT,
    b"[": Kind.ARRAY,
    b'"': Kind.STRING,
    b"t": Kind.BOOLEAN,
    b"f": Kind.BOOLEAN,
    b"n": Kind.NULL,
}


class _Scan:
    """One pass over one text."""

    def __init__(self, text: Text, bounds: Bounds, begin: int) -> None:
        self._text = text
        self._bounds = bounds
        self._begin = begin
        self._values = 0
        self._loose = False
        # Of each container around the current place, the byte that opens it.
        self._open = bytearray()

    def run(self) -> Shape | Refused:
        text, opened = self._text, self._open
        at = begin = _end(_SPACE, text, self._begin)
        while True:
            # A value is due, in an object with its key.
            if opened:
                in_object = opened[-1] == _OBJECT
                at, refused = self._items(_MEMBERS if in_object else _ELEMENTS, at)
                if refused is not None:
                    return refused
                if in_object:
                    if (key := _KEY.match(text, at)) is None:
                        return self._not_json(at)
                    at = key.end()
            if (one := _ONE_VALUE.match(text, at)) is not None:
                if (refused := self._count(text[at : one.end()], 1)) is not None:
                    return refused
                at = one.end()
            elif at < len(text) and text[at] in _CLOSING:
                opened.append(text[at])
                self._values += 1
                if len(opened) > self._bounds.depth:
                    return Refused(Fault.DEPTH, self._bounds.depth)
                at = _end(_SPACE, text, at + 1)
                continue
            else:
                return self._not_json(at)
            # That value may be the last one of containers around it.
            while opened:
                tail = _TAIL.match(text, at)
                if tail is None or tail[1] not in (b",", _CLOSING[opened[-1]]):
                    return self._not_json(at)
                at = tail.end()
                if tail[1] == b",":
                    break
                opened.pop()
            else:
                at = _end(_SPACE, text, at)
                kind = _KINDS.get(text[begin : begin + 1], Kind.NUMBER)
                return Shape(kind, self._values, self._loose) if at == len(text) else self._not_json(at)

    def _items(self, items: "re.Pattern[bytes]", at: int) -> tuple[int, Refused | None]:
        """Count all *items* from *at* on that have another one behind them, and return the place behind them."""
        while (end := _end(items, self._text, at)) > at:
            if (refused := self._count(self._text[at:end], 0)) is not None:
                return end, refused
            at = end
        return at, None

    def _count(self, run: bytes, last: int) -> Refused | None:
        """Count the values of *run*: items that end with a comma each, but for the *last* one of them (0 or 1)."""
        if b'"' in run:
            run = _STRINGS.sub(b"0", run)
        opening = run.count(b"[") + run.count(b"{")
        if opening and len(self._open) >= self._bounds.depth:
            return Refused(Fault.DEPTH, self._bounds.depth)
        # A comma follows each value but the last one of a container.
        filled = opening - len(_EMPTY.findall(run)) if opening else 0
        self._values += run.count(b",") + filled + last
        if self._values > self._bounds.values:
            return Refused(Fault.VALUES, self._bounds.values)
        self._loose = self._loose or b"N" in run or b"I" in run
        return None

    def _not_json(self, at: int) -> Refused:
        if _LONG_NUMBER.match(self._text, at) is not None:
            return Refused(Fault.DIGITS, MOST_DIGITS)
        return Refused(Fault.SYNTAX, at=at - self._begin)


def _end(pattern: "re.Pattern[bytes]", text: Text, at: int) -> int:
    """Where a match of *pattern*, which may be empty, ends."""
    match = pattern.match(text, at)
    return match.end() if match is not None else at


def _size(size: int) -> str:
    return f"{size // 1024**2} MiB" if size >= 1024**2 and size % 1024**2 == 0 else f"{size:,} bytes"


# --- in a process of its own


def command(source: str, begin: int, bounds: Bounds, target: str) -> list[str]:
    """Return the command that checks the file *source* from byte *begin* on; :func:`answer` reads what it prints.

    The process limits its memory and processor time. If the text is loose it writes a strict one to *target*.
    """
    numbers = (begin, bounds.bytes, bounds.depth, bounds.values)
    return [sys.executable, "-I", "-S", "-B", __file__, source, target, *map(str, numbers)]


def answer(printed: bytes) -> Shape | Refused | None:
    """Return what the process of :func:`command` found; None when it came to no end."""
    try:
        match printed.decode().split():
            case ["shape", kind, values, loose]:
                return Shape(Kind(kind), int(values), loose == "loose")
            case ["refused", fault, limit, at]:
                return Refused(Fault(fault), int(limit), int(at))
    except ValueError:
        return None
    return None


def main(arguments: list[str]) -> None:
    """Check one file; see :func:`command`."""
    source, target, *numbers = arguments
    begin, size, depth, values = map(int, numbers)
    resource.setrlimit(resource.RLIMIT_AS, (_PROGRAM_BYTES + 2 * size, _PROGRAM_BYTES + 2 * size))
    resource.setrlimit(resource.RLIMIT_CPU, (_PROGRAM_SECONDS, _PROGRAM_SECONDS))
    os.nice(_NICENESS)
    with open(source, "rb") as file:
        # A mapping cannot be empty.
        whole = os.fstat(file.fileno()).st_size
        text: Text = mmap.mmap(file.fileno(), whole, prot=mmap.PROT_READ) if whole else b""
    found = scan(text, Bounds(size, depth, values), begin)
    if isinstance(found, Refused):
        print("refused", found.fault, found.limit, found.at)  # noqa: T201 - the answer
        return
    if found.loose:
        with open(target, "wb") as file:
            file.writelines(strict(text, begin))
    print("shape", found.kind, found.values, "loose" if found.loose else "strict")  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1:])
