"""Texts that once broke or could break a parser of a container's output, and a generator of more.

Add the text of each defect that is found: every reader is tested with all of them.
"""

from collections.abc import Callable

from hypothesis import strategies as st

DEEP = 100_000

# By size in bytes, as each reader has its own limit. Many are almost JSON, as in a file that was being written.
_SIZED: dict[str, Callable[[int], bytes]] = {
    "open arrays": lambda size: b"[" * size,
    "open objects": lambda size: _filled(b'{"a":', b"", size),
    "closed arrays": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "closed objects": lambda size: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
    "closed arrays in a head": lambda size: b'{"reason": '
    + b"[" * ((size - 12) // 2)
    + b"]" * ((size - 12) // 2)
    + b"}",
    "empty arrays": lambda size: b'{"a": [' + _filled(b"[],", b"[]]}", size - 7),
    "empty objects": lambda size: b"[" + _filled(b"{},", b"{}]", size - 1),
    "short arrays": lambda size: b"[" + _filled(b"[[[1]]],", b"1]", size - 1),
    "short objects": lambda size: b"[" + _filled(b'{"a":{"b":[1]}},', b"1]", size - 1),
    "small numbers": lambda size: b"[" + _filled(b"1,", b"1]", size - 1),
    "empty strings": lambda size: b"[" + _filled(b'"",', b'""]', size - 1),
    "one key again and again": lambda size: b"{" + _filled(b'"a":1,', b'"a":1}', size - 1),
    "a long integer": lambda size: b'{"cpu_seconds": ' + b"9" * (size - 17) + b"}",
    "a long negative integer": lambda size: b"[-" + b"9" * (size - 3) + b"]",
    "a long fraction": lambda size: b"[0." + b"3" * (size - 4) + b"]",
    "a long exponent": lambda size: b"[1e" + b"9" * (size - 4) + b"]",
    "many points": lambda size: b"[" + _filled(b"1.", b"1]", size - 1),
    "a long string": lambda size: b'{"reason": "' + b"x" * (size - 14) + b'"}',
    "a string without an end": lambda size: b'"' + b"x" * (size - 1),
    "backslashes": lambda size: b'"' + b"\\" * (size - 2) + b'"',
    "escapes": lambda size: b'"' + _filled(b"\\u0041", b'"', size - 1),
    "lone surrogates": lambda size: b'"' + _filled(b"\\ud800", b'"', size - 1),
    "spaces": lambda size: b" " * size,
    "spaces within": lambda size: b"[" + b" " * (size - 3) + b"1]",
    "zeros": bytes,
    "no UTF-8": lambda size: b"\xff" * size,
    "half a character": lambda size: b'"' + b"x" * (size - 2) + b"\xc3",
    "another encoding": lambda size: ("[" * (size // 2)).encode("utf-16-le"),
    "newlines": lambda size: b"\n" * size,
    "not a number": lambda size: b"[" + _filled(b"NaN,", b"-Infinity]", size - 1),
}

_FIXED: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]\n",
    "null": b"null\n",
    "byte order mark": b"\xef\xbb\xbf{}\n",
    "numbers out of range": b'{"reason": "running", "cpu_seconds": 1e999, "memory_bytes": -1, "pids": 1e400}\n',
    "no numbers": b'{"reason": "running", "cpu_seconds": NaN, "memory_bytes": Infinity, "pids": -Infinity}\n',
    "other types": b'{"reason": {}, "kind": [], "cpu_seconds": "x", "oom_kills": true, "failure": [[]]}\n',
    "a surrogate as a word": b'{"reason": "\\ud800", "kind": "\\udfff"}\n',
    "one comma too many": b'{"a": [1, 2,]}\n',
    "two values": b"{} {}\n",
}


def corpus(size: int) -> dict[str, bytes]:
    """Return all texts by name; those of variable size are *size* bytes long, or slightly less."""
    return {**{name: made(size) for name, made in _SIZED.items()}, **_FIXED}


def texts(size: int) -> st.SearchStrategy[bytes]:
    """Return a strategy for texts of up to *size* bytes, most of that size: nested, broad, truncated, garbled."""
    unit = st.sampled_from([b"[", b"{", b"]", b"}", b",", b":", b"1", b"-", b"0.", b"1e", b'"', b"\\", b" ", b"\n"])
    words = st.sampled_from([b'{"a":', b'"a"', b'"a":1,', b"[],", b"{},", b"[1],", b"null,", b"true", b"NaN", b"\xff"])
    part = st.lists(unit | words, min_size=1, max_size=6).map(b"".join)
    count = st.sampled_from([1, 2, 100, 1000, 5000, DEEP])
    repeated = st.builds(lambda text, times: text * times, part, count)
    filling = st.builds(lambda begin, middle, end: _around(begin, middle, end, size), part, part, part)
    mixed = st.lists(repeated | part, min_size=1, max_size=4).map(lambda parts: b"".join(parts)[:size])
    known = st.sampled_from(sorted(corpus(size).values()))
    cut = st.builds(lambda text, at: text[: at % (len(text) + 1)], known, st.integers(0, size))
    spoilt = st.builds(_with_byte, known, st.integers(0, size), st.integers(0, 255))
    return filling | mixed | cut | spoilt


def _filled(unit: bytes, end: bytes, size: int) -> bytes:
    return unit * ((size - len(end)) // len(unit)) + end


def _around(begin: bytes, middle: bytes, end: bytes, size: int) -> bytes:
    return begin + middle * max(0, (size - len(begin) - len(end)) // len(middle)) + end


def _with_byte(text: bytes, at: int, byte: int) -> bytes:
    at %= len(text) + 1
    return text[:at] + bytes([byte]) + text[at + 1 :]
