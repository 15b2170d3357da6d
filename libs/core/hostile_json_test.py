"""JSON from a hostile source: accepted is what the `json` module reads, and no text ends the reader."""

import json
import math
import mmap
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libs.core.hostile_json import (
    MOST_DIGITS,
    Bounds,
    Fault,
    Kind,
    Parsed,
    Refused,
    Shape,
    answer,
    command,
    parse,
    scan,
    strict,
)
from tests.support.faults.hostile_texts import DEEP, corpus

SIZE = 128 * 1024
LIMITS = Bounds(bytes=SIZE, depth=100, values=10_000)
WIDE = Bounds(bytes=1 << 30, depth=1 << 30, values=1 << 30)


def fault(text: bytes, bounds: Bounds = LIMITS) -> Fault | None:
    found = parse(text, bounds)
    return found.fault if isinstance(found, Refused) else None


# --- no input ends the reader


@pytest.mark.parametrize("size", [4095, 4096, SIZE, SIZE + 1, 2 * DEEP])
def test_every_known_hostile_text_is_a_value_or_a_reason(size: int) -> None:
    found = {name: parse(text, LIMITS) for name, text in corpus(size).items()}

    assert isinstance(found["open arrays"], Refused)
    assert all(isinstance(one, Parsed | Refused) for one in found.values())


# --- the bounds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[" * 100 + b"]" * 100, None),
        (b"[" * 101 + b"]" * 101, Fault.DEPTH),
        (b'{"a":' * 100 + b"1" + b"}" * 100, None),
        (b'{"a":' * 100 + b"{}" + b"}" * 100, Fault.DEPTH),
        (b"[" * DEEP, Fault.DEPTH),
        (b"[" + b"1," * 9_998 + b"1]", None),
        (b"[" + b"1," * 9_999 + b"1]", Fault.VALUES),
        (b"[" + b"[]," * 9_998 + b"[]]", None),
        (b"[" + b"[]," * 9_999 + b"[]]", Fault.VALUES),
        (b"[" + b'{"a":[1]},' * 3_333 + b"[]]", Fault.VALUES),
        (b'["' + b"," * 50_000 + b'", {"[[,": "{{"}]', None),
        (b"9" * MOST_DIGITS, None),
        (b"9" * (MOST_DIGITS + 1), Fault.DIGITS),
        (b"[1, -0." + b"3" * 5000 + b"]", Fault.DIGITS),
        (b'{"a": 1E+' + b"9" * 5000 + b"}", Fault.DIGITS),
        (b" " * (SIZE - 1) + b"1", None),
        (b" " * SIZE + b"1", Fault.BYTES),
        (b'"\xc3\xa9"', None),
        (b'"\xc3"', Fault.ENCODING),
        (b'"\xed\xa0\x80"', Fault.ENCODING),
    ],
)
def test_a_text_is_refused_from_its_bound_on(text: bytes, expected: Fault | None) -> None:
    assert fault(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 101, "is nested more than 100 levels deep"),
        (b"[" + b"1," * 10_000 + b"1]", "has more than 10,000 values"),
        (b"1" * 5000, "has a number of more than 1,000 digits"),
        (b"\xff", "is not UTF-8"),
        (b"[1, oh]", "is not JSON from byte 4 on"),
        (b" " * SIZE + b"1", "is larger than 131,072 bytes"),
    ],
)
def test_refusal_text_names_reason(text: bytes, words: str) -> None:
    assert str(parse(text, LIMITS)) == words


# --- the same language as the `json` module's

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=70) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=200,
)
_SIGNS = st.text(alphabet='[]{},:"\\ \n10.-+eEtrufalsn/u\x00\x7fé', max_size=14)


@given(_VALUES, st.sampled_from([None, 0, 1]), st.booleans())
def test_output_of_json_module_is_accepted_with_count(value: Any, indent: int | None, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()

    found = scan(text, WIDE)

    assert isinstance(found, Shape), found
    assert (found.kind, found.values) == (_kind(value), _count(value))
    assert json.loads(b"".join(strict(text))) == _without_nan(value)


@settings(max_examples=2000)
@given(_SIGNS)
@example("[1,]")
@example('{"a":1,}')
@example("[1}")
@example('{"a"}')
@example("{1:2}")
@example("[[1,[2]] ,3]")
@example("01")
@example("-")
@example("1.")
@example('"\t"')
@example("[ ]x")
@example(" [ ] ")
@example("- Infinity")
def test_scan_accepts_exactly_what_json_module_accepts(text: str) -> None:
    try:
        json.loads(text)
        expected = True
    except ValueError:
        expected = False

    assert isinstance(scan(text.encode(), WIDE), Shape) is expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"NaN", b"null"),
        (b'[NaN, "NaN", -Infinity, {"Infinity": Infinity}]', b'[null, "NaN", null, {"Infinity": null}]'),
        (b'{"a\\"NaN": 1}', b'{"a\\"NaN": 1}'),
    ],
)
def test_numbers_that_json_does_not_have_become_null(text: bytes, written: bytes) -> None:
    assert b"".join(strict(text)) == written


def test_only_a_text_with_such_numbers_is_loose() -> None:
    found = [scan(text, WIDE) for text in (b"[NaN]", b"-Infinity", b'["NaN Infinity"]', b'{"NaN": 1}')]

    assert [one.loose for one in found if isinstance(one, Shape)] == [True, True, False, False]


# --- its cost


@pytest.mark.parametrize("name", sorted(corpus(1)))
def test_a_scan_takes_little_memory(name: str) -> None:
    text = corpus(256 * 1024)[name]
    tracemalloc.start()
    try:
        scan(text, WIDE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Its nesting, or one long string of it, and a piece of it as text.
    assert peak < 2 * 1024 * 1024


# --- in a separate process


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a": [1, 2]}', Shape(Kind.OBJECT, 4)),
        (b"[NaN]", Shape(Kind.ARRAY, 2, loose=True)),
        (b"", Refused(Fault.SYNTAX)),
        (b"[" * DEEP, Refused(Fault.DEPTH, limit=100)),
        (b"[1, oh]", Refused(Fault.SYNTAX, at=4)),
        (b"[" + b"[]," * 40_000 + b"1]", Refused(Fault.VALUES, limit=10_000)),
    ],
)
def test_a_process_of_its_own_finds_the_same(file: Path, text: bytes, expected: Shape | Refused) -> None:
    file.write_bytes(b"head\n" + text)

    done = subprocess.run(command(str(file), 5, LIMITS, f"{file}.strict"), capture_output=True, check=True)

    assert answer(done.stdout) == expected == scan(b"head\n" + text, LIMITS, 5)


def test_the_process_writes_a_strict_text_in_place_of_a_loose_one(file: Path) -> None:
    file.write_bytes(b"head\n[1, NaN]")

    subprocess.run(command(str(file), 5, LIMITS, f"{file}.strict"), capture_output=True, check=True)

    assert Path(f"{file}.strict").read_bytes() == b"[1, null]"


@pytest.mark.parametrize(
    "printed", [b"", b"shape", b"shape object x strict", b"refused unheard-of 1 1", b"\xff", b"x" * 9999]
)
def test_an_answer_that_makes_no_sense_is_none(printed: bytes) -> None:
    assert answer(printed) is None


def test_a_mapped_file_is_scanned_as_bytes_are(file: Path) -> None:
    text = b"head\n" + b'["a", 1, {"b": []}]'
    file.write_bytes(text)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert scan(mapped, WIDE, 5) == scan(text, WIDE, 5) == Shape(Kind.ARRAY, 5)


def _kind(value: object) -> Kind:
    match value:
        case None:
            return Kind.NULL
        case bool():
            return Kind.BOOLEAN
        case str():
            return Kind.STRING
        case list():
            return Kind.ARRAY
        case dict():
            return Kind.OBJECT
    return Kind.NUMBER


def _count(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_count(item) for item in inner)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
