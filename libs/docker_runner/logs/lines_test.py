import pytest

from libs.docker_runner.logs.lines import Line, Tail


def kept(tail: Tail, texts: list[str]) -> list[str]:
    for text in texts:
        tail.extend([Line(text)])
    return [line.text for line in tail.lines]


@pytest.mark.parametrize(("lines", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_tail_keeps_the_last_lines(lines: int, expected: list[str]) -> None:
    assert kept(Tail(lines, 1000), ["a", "b", "c"]) == expected


@pytest.mark.parametrize(("size", "expected"), [(4, 1), (5, 2), (8, 2), (9, 3)])
def test_tail_of_long_lines_begins_with_the_line_that_reaches_the_size(size: int, expected: int) -> None:
    assert len(kept(Tail(1000, size), ["xxxx"] * 500)) == expected


def test_tail_keeps_a_line_that_is_longer_than_the_size() -> None:
    assert kept(Tail(10, 5), ["a", "x" * 100]) == ["x" * 100]
