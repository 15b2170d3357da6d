"""What is kept of the times of output, for any output."""

from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.logs.lines import Cursor, Line, LineCutter
from libs.docker_runner.logs.spans import (
    RUNTIME,
    Block,
    Span,
    decode,
    divided,
    encode,
    few,
    in_force,
    last_block_begins,
    pack,
    unpack,
)

LENGTHS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 3_000_000), st.integers(1, 2)), max_size=60)


def spans_of(rows: list[tuple[int, int, int]], run: str = "r", offset: int = 0) -> list[Span]:
    time_us, spans = 1_700_000_000_000_000, []
    for length, later, stream in rows:
        time_us += later // 1000 * 1000
        spans.append(Span(run, offset, length, time_us, stream))
        offset += length
    return spans


@given(LENGTHS, st.text(max_size=40))
def test_spans_survive_a_spool(rows: list[tuple[int, int, int]], run: str) -> None:
    spans = spans_of(rows, run, 77)

    assert unpack(pack(spans)) == spans


@given(LENGTHS)
def test_a_block_keeps_what_it_is_of(rows: list[tuple[int, int, int]]) -> None:
    spans = [*spans_of(rows), Span("q", 5, 3, 1_700_000_000_000_000, RUNTIME), *spans_of(rows, "q", 5)]
    encoded = encode(Block(1000, spans))

    [(block, end)] = list(decode(encoded))

    assert (end, last_block_begins(encoded)) == (len(encoded), 0)
    assert (block.at, block.end) == (1000, 1000 + sum(span.length for span in spans))
    assert [span.run for span in block.spans] == sorted((span.run for span in block.spans), key="rq".index)
    assert block.spans[-1].end == spans[-1].end


def test_sparse_output_keeps_each_time_and_stream() -> None:
    spans = spans_of([(40, 1_000_000, 1 + number % 2) for number in range(60)])

    [(block, _)] = list(decode(encode(Block(0, spans))))

    assert list(block.spans) == spans


def test_index_of_hostile_output_is_small() -> None:
    spans = spans_of([(2, 1000, 1 + number % 2) for number in range(200_000)])

    assert len(encode(Block(0, spans))) < 10_000
    assert len(few(spans)) <= 10_000
    assert sum(span.length for span in few(spans)) == 400_000


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_index_is_read_up_to_the_damage(noise: bytes, cut: int) -> None:
    whole = encode(Block(0, spans_of([(10, 0, 1)])))

    found = [block.at for block, _ in decode(whole + (encode(Block(10, spans_of([(5, 0, 1)]))) + noise)[:cut] + noise)]

    assert found[:1] == [0]
    assert set(found) <= {0, 10}


def test_later_block_replaces_what_failed() -> None:
    blocks = [Block(at, spans_of([(length, 0, 1)])) for at, length in ((0, 10), (10, 7), (10, 20), (30, 5), (30, 6))]

    assert [(block.at, block.end) for block in in_force(blocks)] == [(0, 10), (10, 30), (30, 36)]


@given(LENGTHS, st.integers(0, 9000), st.integers(0, 9000), st.integers(1, 700))
def test_divided_spans_cover_just_the_bytes_that_are_wanted(
    rows: list[tuple[int, int, int]], begin: int, length: int, most: int
) -> None:
    block = Block(100, spans_of(rows))
    begin, end = 100 + begin, 100 + begin + length

    groups = list(divided(block, begin, end, most))

    at = max(begin, 100)
    for group_at, spans in groups:
        assert group_at == at
        assert all(span.offset == span_at - 100 for span, span_at in zip(spans, offsets(spans, at), strict=True))
        assert 0 < sum(span.length for span in spans) <= most
        at += sum(span.length for span in spans)
    assert at == max(begin, min(end, block.end))


def offsets(spans: list[Span], at: int) -> list[int]:
    found = []
    for span in spans:
        found.append(at)
        at += span.length
    return found


@given(st.lists(st.sampled_from([b"a", b"bc\n", b"\n", b"\r\n", b"\xff"]), max_size=30), st.integers(1, 7))
def test_lines_are_the_same_however_output_is_divided(parts: list[bytes], size: int) -> None:
    payload = b"".join(parts)
    spans = [Span("r", 0, len(payload), 5_000_000, 1)] if payload else []

    whole = LineCutter()
    expected = [*whole.add(payload, spans), *whole.rest()]
    cutter = LineCutter()
    found: list[Line] = []
    for _, group in divided(Block(0, spans), 0, len(payload), size):
        found += cutter.add(payload[group[0].offset : group[-1].end], group)
    found += cutter.rest()

    assert found == expected
    assert [line.text for line in found] == [
        text.removesuffix("\r") for text in payload.decode(errors="replace").removesuffix("\n").split("\n")
    ] * bool(payload)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=60))
def test_cursor_shows_nothing_twice_also_after_it_was_sent(rows: list[tuple[int, int]]) -> None:
    lines, ends, time_us = [], dict[int, int](), 1_000_000
    for run, length in sorted(rows, key=lambda row: row[0]):
        ends[run] = ends.get(run, 0) + length
        time_us += 1000
        lines.append(Line("x", time_us, f"run:{run}", ends[run], "stdout"))
    cursor = Cursor()
    for line in lines:
        assert cursor.is_new(line)
        cursor.show(line)
        cursor = Cursor.parse(str(cursor))
        assert len(str(cursor)) < 1000

    assert not any(cursor.is_new(line) for line in lines)
