from pathlib import Path

import pytest

from tools.ci.summary import Summary, main, read_report

REPORT = """<testsuites><testsuite name="pytest" tests="4">
<testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><error/></testcase>
<testcase name="d"><skipped/></testcase></testsuite></testsuites>"""


def test_errors_count_as_failures_and_skips_are_listed(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(REPORT)

    summary = read_report(tmp_path / "r.xml")

    assert summary == Summary(passed=1, failed=2, skipped=1)
    assert str(summary) == "1 passed, 2 failed, 1 skipped"


def test_reports_of_a_whole_folder_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one.xml", "two.xml"):
        (tmp_path / name).write_text("<testsuite><testcase name='a'/><testcase name='b'/></testsuite>")

    assert main(str(tmp_path)) == 0
    assert capsys.readouterr().out == "4 passed, 0 failed\n"


def test_a_run_without_a_test_is_a_failure(tmp_path: Path) -> None:
    assert main(str(tmp_path)) == 1
