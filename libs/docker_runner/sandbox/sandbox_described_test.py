"""SANDBOX.md names tests that there are, and every test of a hostile bot has its row."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def names_in(pattern: str) -> set[str]:
    files = [path.read_text() for path in PACKAGE.rglob(pattern)]
    assert files
    return {name for text in files for name in re.findall(r"def (test_\w+)\(", text)}


def test_every_row_names_tests_that_there_are() -> None:
    named = set(re.findall(r"`(test_\w+)`", (PACKAGE / "SANDBOX.md").read_text()))
    assert len(named) > 30
    assert named <= names_in("*_docker_test.py")


def test_every_test_of_the_sandbox_has_its_row() -> None:
    text = (PACKAGE / "SANDBOX.md").read_text()
    assert {name for name in names_in("sandbox*_docker_test.py") if name not in text} == set()
