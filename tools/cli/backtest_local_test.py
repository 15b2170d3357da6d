import pytest

from libs.docker_runner.logs.output import LogLine
from tools.cli.backtest_local import OutputWithoutResult


def lines(*pieces: str) -> list[LogLine]:
    return [LogLine(f"t{number}", "stdout", piece.encode()) for number, piece in enumerate(pieces)]


@pytest.mark.parametrize(
    ("pieces", "is_result", "shown"),
    [
        (["a\n", '{"metrics": {}}\n'], True, "a\n"),
        (["a\n", '{"metrics": {}}\n'], False, 'a\n{"metrics": {}}\n'),
        (['{"a": 1}\n', "b\n", '{"metrics": {}}\n'], True, '{"a": 1}\nb\n'),
        (['{"a": 1}\n', '{"metrics": {}}\n'], True, '{"a": 1}\n'),
        (["a\n", '{"metrics": ', "{}}\n"], True, "a\n"),
        (["a\n"], True, "a\n"),
    ],
)
def test_output_is_shown_without_the_line_of_the_result(
    pieces: list[str], is_result: bool, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output = OutputWithoutResult(quiet=False)
    for line in lines(*pieces):
        output.write(line)
    output.end(is_result=is_result)

    assert capfd.readouterr().out == shown


def test_quiet_output_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    output = OutputWithoutResult(quiet=True)
    for line in lines("a\n", "{}\n"):
        output.write(line)
    output.end(is_result=False)

    assert capfd.readouterr().out == ""
