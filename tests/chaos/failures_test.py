"""deploy/FAILURES.md names faults that exist, and its links lead somewhere."""

import re
from pathlib import Path

from tests.chaos.schedule import NAMES

_ROOT = Path(__file__).parents[2]
_FAILURES = _ROOT / "deploy" / "FAILURES.md"


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


def test_every_link_has_a_target() -> None:
    links = re.findall(r"\]\(([^)#]*)#?([\w-]*)\)", _FAILURES.read_text())

    assert len(links) > 10
    for file, anchor in links:
        target = (_FAILURES.parent / file).resolve() if file else _FAILURES
        assert target.is_file(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_measured_fault_exists() -> None:
    measured = _FAILURES.read_text().partition("## Measured")[2]
    names = set(re.findall(r"^\| (.+?) \|", measured, re.MULTILINE)) - {"fault"}

    assert len(names) > 2
    assert names <= set(NAMES)
