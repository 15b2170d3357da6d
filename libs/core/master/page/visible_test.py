from datetime import UTC, datetime, timedelta

import pytest

from libs.core.master.page.visible import ago, duration, shortened, size, visible

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nand more", "plain\ttext\nand more"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x07", "\\u{1b}]8;;http://evil\\u{7}"),
        ("abc\u202egpj.exe", "abc\\u{202e}gpj.exe"),
        ("in\u200bvisible\ufeff", "in\\u{200b}visible\\u{feff}"),
        ("half \ud83d", "half \\u{d83d}"),
        ("family \N{MAN}\u200d\N{WOMAN} €", "family \N{MAN}\u200d\N{WOMAN} €"),
    ],
)
def test_hiding_and_reordering_characters_are_shown_as_codes(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_long_id_keeps_its_beginning_and_its_end() -> None:
    short = shortened("begin" + "x" * 300 + "end")

    assert (short[:5], short[-3:]) == ("begin", "end")
    assert len(short) <= 60


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (59.6, "1 min 0 s"), (3600, "1 h"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_time_is_relative_to_now() -> None:
    assert ago(NOON - timedelta(minutes=3, seconds=9), NOON) == "3 min ago"
    assert ago(NOON.timestamp() + 7200, NOON) == "in 2 h"


def test_size_has_suitable_unit() -> None:
    assert [size(number) for number in (None, 12, 50_000_000, 3_200_000_000)] == ["", "12 B", "50 MB", "3.2 GB"]
