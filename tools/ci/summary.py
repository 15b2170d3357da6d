"""Sum up pytest's JUnit reports in one line, `N passed, N failed`, since Pants runs pytest many times."""

import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Summary:
    """The numbers of tests in all reports by outcome."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Summary") -> "Summary":
        return Summary(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def read_report(report: Path) -> Summary:
    """Return the numbers of one JUnit report. An error during the set-up of a test counts as a failure.

    Raises:
        xml.etree.ElementTree.ParseError: the file is not XML: its test run was interrupted.
    """
    # The file was written by the test runner; it is not input from outside.
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # noqa: S314
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return Summary(passed=len(cases) - failed - skipped, failed=failed, skipped=skipped)


def main(folder: str) -> int:
    """Print the summary of *folder*; return 1 when a test failed, or when there is no report at all."""
    reports = sorted(Path(folder).glob("**/*.xml"))
    total = sum((read_report(report) for report in reports), Summary())
    sys.stdout.write(f"{total}\n")
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
