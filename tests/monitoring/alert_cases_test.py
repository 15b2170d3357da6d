"""The cases by which alerts are tried cover all of them, and what their texts refer to."""

import re

import pytest

from tests.monitoring.alert_cases import CASES, Case
from tests.monitoring.rules import alerts


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES} == alerts().keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_the_texts_of_an_alert_refer_only_to_labels_that_it_has(case: Case) -> None:
    texts = " ".join(alerts()[case.alert].annotations.values())

    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= case.labels.keys() | {"namespace"}
