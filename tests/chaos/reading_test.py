"""Reading what the observer writes."""

from pathlib import Path

import pytest

from tests.chaos.reading import Observations
from tests.chaos.timeline import Copy, Slowness

_LINES = (
    '{"container": "c1", "entity": "b1", "engine": "e1", "number": 3, "ticks": [1.0]}\n'
    '{"at": 1.05, "slowness": 1.5}\n'
    '{"container": "c1", "ticks": [1.1, 1.2]}\n'
    '{"container": "c2", "entity": "b1", "engine": "e2", "number": 4, "ticks": []}\n'
    '{"container": "c3", "entity": "b2", "engine": "e2", "number": 4, "count": 7, "ticks": [1.2], "counts": [8]}\n'
)


@pytest.mark.parametrize("cut", [0, 1, 60, 100, 130, len(_LINES)])
def test_lines_of_the_observer_are_read_once_each_as_the_file_grows(tmp_path: Path, cut: int) -> None:
    observations = Observations(tmp_path / "ticks")
    observations.read()

    for text in (_LINES[:cut], _LINES, _LINES + '{"container": "c1", "ti'):
        (tmp_path / "ticks").write_text(text)
        observations.read()

    assert observations.copies == (
        Copy("b1", "c1", "e1", (1.0, 1.1, 1.2), 3),
        Copy("b2", "c3", "e2", (1.2,), 4, restored=7, counts=(8,)),
    )
    assert observations.slowness == (Slowness(1.05, 1.5),)
    assert observations.latest_numbers == {"b1": 3, "b2": 4}
    assert observations.latest_ticks == {"b1": 1.2, "b2": 1.2}
