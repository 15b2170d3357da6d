import pytest

from tools.cli.live_output import Lines, unseen


@pytest.mark.parametrize(
    ("shown", "fresh", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b"], ["b", "c"], ["c"]),
        (["a", "b"], ["a", "b"], []),
        # The same line often: only its neighbours show which of them was the last shown one.
        (["x", "tick", "tick"], ["x", "tick", "tick", "tick"], ["tick"]),
        (["a", "tick"], ["b", "tick", "a", "tick", "c", "tick"], ["c", "tick"]),
        # The host that ran it before has not handed in its last lines yet.
        (["a", "b", "c", "d", "e"], ["a", "b", "c"], []),
        (["a", "b"], ["x", "y"], ["x", "y"]),
    ],
)
def test_only_what_was_not_shown_yet_is_shown_after_a_change_of_worker(
    shown: list[str], fresh: list[str], new: list[str]
) -> None:
    assert list(unseen(shown, fresh)) == new


def test_lines_come_whole_however_the_output_is_cut() -> None:
    content = "one\r\ntwo €\nthree".encode()
    lines = Lines()

    found = [line for index in range(len(content)) for line in lines.add(content[index : index + 1])]

    assert (found, lines.rest(), lines.rest()) == (["one", "two €"], ["three"], [])
