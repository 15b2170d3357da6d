import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.logs.masking import Masker, masked_pieces
from libs.docker_runner.logs.output import LogLine

VALUE = "s3cr3t+Kéy/42"


def pieces(*data: bytes, streams: Sequence[str] = ()) -> list[LogLine]:
    return [
        LogLine(f"{n:09}", stream, text)
        for n, (text, stream) in enumerate(zip(data, streams or ["stdout"] * len(data), strict=True))
    ]


async def masked(found: Sequence[LogLine], *values: str) -> list[LogLine]:
    async def source() -> AsyncGenerator[LogLine, None]:
        for piece in found:
            yield piece

    async with aclosing(masked_pieces(source(), Masker(values))) as result:
        return [piece async for piece in result]


@pytest.mark.parametrize(
    "form",
    [
        VALUE.encode(),
        json.dumps(VALUE).encode(),
        json.dumps(VALUE, ensure_ascii=False).encode(),
        quote(VALUE, safe="").encode(),
        VALUE.encode().hex().encode(),
        *(base64.b64encode(b"user:"[:n] + VALUE.encode() + b":tail") for n in range(4)),
        base64.urlsafe_b64encode(VALUE.encode()),
    ],
)
def test_value_is_masked_in_each_form_and_the_length_stays(form: bytes) -> None:
    line = b"before " + form + b" after"

    found = Masker([VALUE]).masked(line)

    assert len(found) == len(line)
    assert found.startswith(b"before ")
    assert found.endswith(b" after")
    # All characters but those that bytes beside it determine in base64.
    assert found.count(b"*") >= len(form) - 14
    assert found.count(b"*") >= 10


@pytest.mark.parametrize("short", ["", "12345", "    a     "])
def test_short_value_is_not_masked(short: str) -> None:
    assert Masker([short]).masked(b"a 12345") == b"a 12345"


def test_each_line_of_a_value_is_masked_and_also_the_whole_as_json() -> None:
    value = "-----BEGIN-----\nabcdefgh\nshort\n"
    masker = Masker([value])

    assert masker.masked(b"x abcdefgh y") == b"x ******** y"
    assert b"abcdefgh" not in masker.masked(json.dumps({"k": value}).encode())
    assert masker.masked(b"short") == b"short"


def test_value_within_another_one_leaves_no_rest() -> None:
    assert Masker(["abcdef", "abcdefghij"]).masked(b"abcdefghij abcdef") == b"********** ******"


async def test_value_between_two_pieces_is_masked_in_both() -> None:
    found = await masked(pieces(b"x" * 16 + b"s3cr", b"3t-key rest\n"), "s3cr3t-key")

    assert [piece.data for piece in found] == [b"x" * 16 + b"****", b"****** rest\n"]
    assert [piece.timestamp for piece in found] == ["000000000", "000000001"]


async def test_pieces_keep_their_order_while_one_is_held_back() -> None:
    found = await masked(
        pieces(b"a s3cr", b"other\n", b"3t-key\n", streams=["stdout", "stderr", "stdout"]), "s3cr3t-key"
    )

    assert [piece.data for piece in found] == [b"a ****", b"other\n", b"******\n"]
    assert [piece.stream for piece in found] == ["stdout", "stderr", "stdout"]


async def test_piece_that_ends_within_no_value_is_passed_on_at_once() -> None:
    async def source() -> AsyncGenerator[LogLine, None]:
        yield pieces(b"no end")[0]
        raise AssertionError("read too far")

    async with aclosing(masked_pieces(source(), Masker(["s3cr3t-key"]))) as found:
        assert (await anext(found)).data == b"no end"


async def test_end_of_the_output_within_a_value_is_passed_on() -> None:
    assert [piece.data for piece in await masked(pieces(b"a s3cr"), "s3cr3t-key")] == [b"a s3cr"]


async def test_output_is_not_held_back_without_a_bound() -> None:
    many = pieces(b"a s3cr", *[b"other\n"] * 5000, streams=["stdout", *["stderr"] * 5000])
    count = 0

    async def source() -> AsyncGenerator[LogLine, None]:
        nonlocal count
        for piece in many:
            count += 1
            yield piece

    async with aclosing(masked_pieces(source(), Masker(["s3cr3t-key"]))) as found:
        await anext(found)
    assert count < 2000


@given(
    st.lists(st.sampled_from(["abcabcd", "ababab", "xyz123"]), min_size=1, max_size=3),
    st.text(alphabet="abcdxyz123\n", max_size=60),
    st.lists(st.integers(0, 60), max_size=6),
)
async def test_cuts_of_a_line_change_nothing(values: list[str], text: str, cuts: list[int]) -> None:
    data = text.replace("\n", "").encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    cut = [data[begin:end] for begin, end in pairwise(places)]

    found = await masked(pieces(*cut), *values)

    assert b"".join(piece.data for piece in found) == Masker(values).masked(data)
    assert [len(piece.data) for piece in found] == [len(one) for one in cut]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("123456", {"n": 123456, "s": "a123456", "f": -0.123456}),
        ('{"k": "v"}', {"k": "v", "s": '{"k": "v"}'}),
        ('q"uote"d', {"s": 'q"uote"d', "q": 1}),
        ("s3cr3t-key", {"s3cr3t-key": ["s3cr3t-key"]}),
    ],
)
def test_masked_result_is_still_json_and_without_the_value(value: str, result: object) -> None:
    text = json.dumps(result)

    found = Masker([value]).masked_json(text.encode())

    json.loads(found)
    assert len(found) == len(text)
    assert json.dumps(value)[1:-1].encode() not in found


def test_file_is_masked_from_its_payload_on_across_reads(tmp_path: Path) -> None:
    path = tmp_path / "result"
    head, value = b'{"head": "s3cr3t-key"}\n', b"s3cr3t-key"
    body = b'"' + b"x" * (1024 * 1024 - 5) + value + b"y" * (1024 * 1024) + value + b'"'
    path.write_bytes(head + body)

    Masker([value.decode()]).mask_file(path, len(head))

    found = path.read_bytes()
    assert found == head + body.replace(value, b"*" * len(value))
