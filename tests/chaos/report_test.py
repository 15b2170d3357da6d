"""The report of a run."""

import json
from dataclasses import replace
from pathlib import Path

from tests.chaos.report import report_on
from tests.chaos.synthetic import GOOD, copy


def test_report_of_a_good_run_names_what_each_fault_did(tmp_path: Path) -> None:
    report = report_on(GOOD, seed=7, lease_seconds=5.0, load=3.0)

    report.write(tmp_path)

    [fault] = json.loads((tmp_path / "report.json").read_text())["faults"]
    assert (fault["name"], fault["down"], fault["began_seconds"]) == ("worker killed", 1, 50.0)
    assert (fault["longest_seconds"], fault["countable_seconds"]) == (3.0, 3.0)
    assert report.slowness == 1.0
    assert report.good
    assert "FAILED" not in (tmp_path / "report.txt").read_text()


def test_report_of_a_broken_law_is_not_good_and_says_which(tmp_path: Path) -> None:
    twice = replace(GOOD, copies=(*GOOD.copies, copy("b1", "c9", 20, 30)))

    report = report_on(twice, seed=7, lease_seconds=5.0)

    assert not report.good
    assert report.has_two_copies
    assert "FAILED  no two live copies\n        b1: " in report.text()


def test_limit_on_recovery_is_that_of_the_run() -> None:
    assert not report_on(GOOD, seed=7, lease_seconds=5.0, limit_seconds=2.0).good
