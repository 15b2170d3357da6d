"""Check JSON from a hostile source against bounds before a value is built from it. Pure.

``json.loads`` alone is unsafe for such input: 1,000 opening brackets raise RecursionError, a number of 5,000 digits
raises ValueError, and 64 MiB of ``[]`` take gigabytes. :func:`scan` builds no value: regular expressions match runs of
values at the speed of C, and Python steps only through containers that contain other containers. It takes linear time
and almost no memory.

This file is also a program (see :func:`main`) that runs without the rest of the project, so it imports nothing of it.
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
"""Limit of one part of a number: the interpreter rejects an integer of more than 4,300."""

_CHUNK_BYTES = 1024 * 1024
_PROGRAM_BYTES = 256 * 1024 * 1024
_PROGRAM_SECONDS = 60
_NICENESS = 10

Text = bytes | mmap.mmap


class Fault(StrEnum):
    """The reason why a text is rejected."""

    BYTES = "too-large"
    DEPTH = "too-deep"
    VALUES = "too-many-values"
    DIGITS = "number-too-long"
    ENCODING = "not-utf-8"
    SYNTAX = "not-json"


class Kind(StrEnum):
    """The type of the outermost value of a JSON text."""

    OBJECT = "object"
    ARRAY = "array"
    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True)
class Bounds:
    """The bounds of a text.

    Attributes:
        bytes: its size.
        depth: nesting of containers (objects and arrays).
        values: number of containers, strings (without keys), numbers, booleans and nulls.
    """

    bytes: int
    depth: int
    values: int


@dataclass(frozen=True)
class Shape:
    """The properties of an accepted text. *loose*: it contains NaN or an infinity, which are not JSON."""

    kind: Kind
    values: int
    loose: bool = False


@dataclass(frozen=True)
class Refused:
    """The rejection of a text. ``str`` is a predicate for users: "is nested more than 100 levels deep".

    Attributes:
        limit: the exceeded bound; 0 where there is none.
        at: for :attr:`Fault.SYNTAX`, the first byte that is not JSON.
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
        # Unreachable while `scan` accepts no more than `json`; a difference must not end a loop.
        return Refused(Fault.SYNTAX)


def scan(text: Text, bounds: Bounds, begin: int = 0) -> Shape | Refused:
    """Return the properties of *text* from *begin* on, without its value. Never raises.

    It blocks the interpreter for up to 60 ms per MiB: check large texts in a separate process.
    """
    if len(text) - begin > bounds.bytes:
        return Refused(Fault.BYTES, bounds.bytes)
    if not _is_utf8(text, begin):
        return Refused(Fault.ENCODING)
    return _Scan(text, bounds, begin).run()


def strict(text: Text, begin: int = 0) -> Iterator[bytes]:
    """Yield *text*, which :func:`scan` accepted, in pieces, with null for NaN and the infinities."""
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


# --- the grammar. Repetitions are possessive (*+): one that can backtrack would keep a state for each item.


def _repeated(item: bytes, times: bytes) -> bytes:
    """Return a pattern of *item*, repeated by *times*, possessively.

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
    """Return a pattern of a container with a few *item*, or empty."""
    more = _repeated(rb"%b,%b%b" % (_WS, _WS, item), b"{0,%d}" % _FLAT_ITEMS)
    return rb"%b%b%b%b" % (opening, _WS, _repeated(item + more + _WS, b"?"), closing)


def _run(item: bytes) -> bytes:
    """Return a pattern of items followed by another one. Limited: a match's items are counted afterwards."""
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
        # The opening byte of each container around the current position.
        self._open = bytearray()

    def run(self) -> Shape | Refused:
        text, opened = self._text, self._open
        at = begin = _end(_SPACE, text, self._begin)
        while True:
            # A value is expected, in an object with its key.
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
            # That value may be the last one of the surrounding containers.
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
        """Count all *items* from *at* on that are followed by another one, and return the end position."""
        while (end := _end(items, self._text, at)) > at:
            if (refused := self._count(self._text[at:end], 0)) is not None:
                return end, refused
            at = end
        return at, None

    def _count(self, run: bytes, last: int) -> Refused | None:
        """Count the values of *run*: items that each end with a comma, except the *last* one (0 or 1)."""
        if b'"' in run:
            run = _STRINGS.sub(b"0", run)
        opening = run.count(b"[") + run.count(b"{")
        if opening and len(self._open) >= self._bounds.depth:
            return Refused(Fault.DEPTH, self._bounds.depth)
        # A comma follows each value except the last one of a container.
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
    """Return the end of a match of *pattern*, which may be empty."""
    match = pattern.match(text, at)
    return match.end() if match is not None else at


def _size(size: int) -> str:
    return f"{size // 1024**2} MiB" if size >= 1024**2 and size % 1024**2 == 0 else f"{size:,} bytes"


# --- in a separate process


def command(source: str, begin: int, bounds: Bounds, target: str) -> list[str]:
    """Return the command that checks the file *source* from byte *begin* on; :func:`answer` reads what it prints.

    The process limits its memory and processor time. If the text is loose it writes a strict one to *target*.
    """
    numbers = (begin, bounds.bytes, bounds.depth, bounds.values)
    return [sys.executable, "-I", "-S", "-B", __file__, source, target, *map(str, numbers)]


def answer(printed: bytes) -> Shape | Refused | None:
    """Return the result of the process of :func:`command`; None when it did not complete."""
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
